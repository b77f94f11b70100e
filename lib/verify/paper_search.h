// What inner products with coded rows are good for: the nearest neighbours that they find (recall 1@k, section 4.4 of arXiv
// 2504.19874), the order into which they bring rows, and one row that a query asks for among thousands (section 4.2).
//
// What theory expects: in the frame of a random rotation a row is uniform on the sphere, and each coordinate becomes its nearest
// level. So on uniform rows the expected numbers are those of the same rows with each coordinate taken to the nearest level
// of the exact codebook as they stand, in double: no norm, rotation, code or byte of tq enters. A codec with another error, or
// one that mixes rows up, misses them.
#pragma once

#include "lib/verify/paper_subject.h"

namespace tq {

inline constexpr std::int64_t kSearchRows = 2048;   ///< among which one is sought
inline constexpr std::int64_t kSearchQueries = 64;  ///< of each such set

/// Shares and means over all queries; what is expected stands in `limits.exact` of a check, and the standard error is that of
/// the difference to it.
struct SearchNumbers {
  Estimate recall_at_1,
      recall_at_8;  ///< the row with the largest exact product is among the first 1, 8 of the coded ones
  Estimate rank_correlation;  ///< Spearman's, of exact and coded products, mean over queries
  Estimate
      needle;  ///< of queries at a cosine of 4/sqrt(d) to their row: it has the largest product
  double expected_recall_at_1 = 0, expected_recall_at_8 = 0, expected_rank_correlation = 0,
         expected_needle = 0;
};

/// settings.rows / 2048 sets of rows, each with a rotation of its own; queries are never rows.
SearchNumbers measure_search(const Backend& backend, const PaperSubject& subject, int dim, int bits,
                             const PaperSettings& settings);

/// The four checks of one dim and width. The control has its rows shuffled. None for dim * bits < 24: so few codes give ties,
/// and an order among equals means nothing.
std::vector<PaperCheck> check_search(const Backend& backend, const PaperSubject& subject, int dim,
                                     int bits, const PaperSettings& settings);

}  // namespace tq
