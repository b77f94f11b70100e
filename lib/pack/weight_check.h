// What packing cost, measured on what was written: codes and norms are decoded again and compared with the source.
//
// Decoding and comparing every value would take longer than encoding it. So tensors of up to kCheckedWhole values are
// checked whole, and of the others each block of rows that is encoded has its first sixteenth checked (at least one row):
// an even sample over the whole tensor, a million values of a matrix of 16 million, which leaves a standard error of the
// relative MSE below 0.5 %. A damaged table, sign, shape, or order of rows shows in every sample.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/backend.h"
#include "lib/measure/error_stats.h"
#include "lib/measure/moments.h"
#include "lib/pack/plan_weights.h"

namespace tq {

inline constexpr std::int64_t kCheckedWhole = std::int64_t{1} << 17;
inline constexpr std::int64_t kCheckedShare = 16;

/// What was measured of a tensor.
struct WeightStats {
  std::int64_t rows_checked = 0;
  std::int64_t values_checked = 0;
  double relative_mse = 0;    ///< sum |x - x_hat|^2 / sum |x|^2 over the checked rows; see ErrorStats
  std::int64_t worst_row = -1;  ///< the checked row with the lowest cosine
  double worst_cosine = 0;
  double kurtosis = 0;        ///< of the checked values; NaN where they are all equal
};

/// Rows [first, first + rows) of a tensor, or part of one row: what is encoded at a time. See cut_into_blocks().
struct WeightBlock {
  std::size_t item;         ///< index into WeightPlan::items
  std::int64_t first;       ///< quantized: the first group; kept: the first byte of the source
  std::int64_t count;       ///< quantized: groups; kept: bytes of the source
  bool is_last;             ///< of its item
};

/// Sums of one block, or of many.
class WeightCheck {
 public:
  /// `groups` [count][group_size] in the source's type, as they were encoded into codes and norms: decodes the rows that
  /// are to be checked and compares.
  void check(const Backend& backend, const WeightItem& item, const WeightBlock& block, const std::byte* groups,
             const std::uint8_t* codes, const float* norms);
  /// Adds a later block of the same tensor.
  void merge(const WeightCheck& later);
  void clear() { *this = WeightCheck(); }
  WeightStats result() const;

 private:
  ErrorStats errors_;
  Moments moments_;
  std::int64_t worst_row_ = -1;
  double worst_cosine_ = 2;
};

}  // namespace tq
