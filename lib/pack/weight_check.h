// What packing cost, measured on what was written: codes and norms are decoded again and compared with the source.
//
// Decoding and comparing every value would take longer than encoding it, so unless a gate asks for all a sample is checked: one
// row of 64, of a small tensor more of them, so that about kLeastChecked values or all are checked, and at least kLeastRows rows or
// all. The sample is spread over the tensor and the same in every run. How far it is from the whole depends on how much rows
// differ: docs/weights.md has figures of a trained model. A wrong table, sign, shape or order of rows shows in every sample; the
// worst row is the worst of those checked.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/backend.h"
#include "lib/measure/error_stats.h"
#include "lib/measure/moments.h"
#include "lib/pack/plan_weights.h"

namespace tq {

inline constexpr std::int64_t kLeastChecked = std::int64_t{1} << 15;
inline constexpr std::int64_t kLeastRows = 16;
inline constexpr std::int64_t kLeastShare = 64;  ///< 1/64

/// One row of every `share` is checked.
std::int64_t checked_share(const WeightItem& item);

/// What was measured of a tensor.
struct WeightStats {
  std::int64_t rows_checked = 0;
  std::int64_t values_checked = 0;
  double relative_mse = 0;    ///< sum |x - x_hat|^2 / sum |x|^2 over the checked rows; see ErrorStats
  std::int64_t worst_row = -1;  ///< the checked row with the lowest cosine
  double worst_cosine = 0;
  double kurtosis = 0;        ///< of the checked values; NaN where they are all equal
};

/// Values of a tensor that is kept as F16 for which F16 is too coarse near 0. Exact values count nowhere.
struct F16Losses {
  std::int64_t zeroed = 0;       ///< not 0 in the source, and 0 in F16
  double largest_zeroed = 0;     ///< in magnitude
  std::int64_t subnormal = 0;    ///< below 2^-14, where F16 has fewer digits, and stored with an error
  double largest_subnormal = 0;  ///< in magnitude

  /// `stored` holds the values of `source` as F16 has them.
  void add(std::span<const float> source, std::span<const float> stored);
  void merge(const F16Losses& other);
  bool any() const { return zeroed + subnormal > 0; }
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
  /// `groups` [count][group_size] in the source's type, as they were encoded into codes and norms: decodes those of one
  /// row of every `share` of the tensor and compares.
  void check(const Backend& backend, const WeightItem& item, const WeightBlock& block, std::int64_t share, const std::byte* groups,
             const std::uint8_t* codes, const float* norms);
  /// Adds a later block of the same tensor, which may go on with the last row of this.
  void merge(const WeightCheck& later);
  void clear();
  WeightStats result() const;

 private:
  /// A row, or as much of it as was seen.
  struct Row {
    std::int64_t number;
    std::int64_t length;
    RowSums sums;
  };
  /// Groups of the rows that are checked, one after the other, and what is made of them: kept from block to block.
  struct Sample {
    std::vector<std::byte> groups;
    std::vector<std::uint8_t> codes;
    std::vector<float> norms, x, x_hat;
    std::vector<RowSums> sums;
  };
  void add(const Row& row);
  void finish(const Row& row);

  std::vector<Row> rows_;  ///< of a block; of many the last one, which is not in what follows
  ErrorStats errors_;
  Moments moments_;
  std::int64_t worst_row_ = -1;
  double worst_cosine_ = 2;
  Sample sample_;
};

}  // namespace tq
