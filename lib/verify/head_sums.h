// What measuring one head finds, as sums that merge over the heads of a layer, and the numbers of a
// report that follow.
#pragma once

#include <array>
#include <optional>

#include "lib/cache/cache_codec.h"
#include "lib/measure/attention_stats.h"
#include "lib/measure/error_stats.h"
#include "lib/verify/report.h"

namespace tq {

/// Remedies that a plain scheme is measured with: means subtracted, loud channels kept, one bit
/// more.
inline constexpr std::size_t kRemedies = 3;

/// What theory says of a codec. Of heads with different ones: the one with the fewest bits, and the
/// worst bound.
struct CodecNumbers {
  int dim = 0;
  int bits = 0;
  double distortion = 0;      ///< NaN where no codebook is
  double codebook_bound = 0;  ///< NaN where no codebook is
  double ideal_cosine = 0;
};

/// K or V of one head, then of a layer.
struct PartSums {
  CodecNumbers codec;
  double average_bits = 0;  ///< summed over `heads`
  int heads = 0;
  ErrorStats errors;
  double expected = 0;  ///< error energy that theory expects; NaN where it says nothing
  bool has_seeds = false;
  bool has_sketch = false;
  double residual_dot_sketch = 0;
  double residual_dot_other_sketch = 0;  ///< the same signs, with the matrix of another seed
  double sketched_error = 0;             ///< error energy of the heads that have a sketch
  std::array<double, kOtherSeeds> other_seed_error{};
  std::array<ErrorStats, kControls> controls;

  /// Sets codec, average_bits and heads, of one head.
  void describe(const CacheCodec& codec);
  void merge(const PartSums& other);
};

struct HeadSums {
  PartSums k, v;
  std::optional<AttentionStats> attention;
  std::array<std::optional<AttentionStats>, kControls> k_control_attention;
  KeyHealthNumbers health;
  std::array<double, kRemedies> remedy_error{};  ///< error energy of K with each remedy
  int kept_channels = 0;

  void merge(const HeadSums& other);
};

Measurement summarize(const HeadSums& sums);

}  // namespace tq
