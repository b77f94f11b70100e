// What the paper's theorems are measured on: tq's codec, or one that was broken on purpose; and the seeded rows.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "lib/backend.h"
#include "lib/verify/paper_check.h"

namespace tq {

/// A codec under test. The default is tq's own; controls and tests change one thing.
struct PaperSubject {
  double level_factor = 1;                    ///< the codebook's levels are multiplied with it
  double sketch_factor = 1;                   ///< the norms of the residuals are, so the sketch is
  std::optional<RotationKind> rotation = {};  ///< in place of the measurement's own
  int more_bits = 0;                          ///< codes have so many bits more than is said
  bool exact = false;                         ///< rows come back as they were
  bool shuffled = false;                      ///< each row comes back in the place of another

  /// The codec of a scheme. Error as Codec's.
  Codec make_codec(const Scheme& scheme) const;
};

/// How much is measured, and how.
struct PaperSettings {
  std::uint32_t seed = 1;
  std::int64_t rows =
      131072;  ///< of a measurement, 16384 or more; of those with a sketch a quarter
  int threads = 1;
};

/// Standard normal rows [count][dim] of a stream: the same on every machine.
std::vector<float> draw_rows(std::uint32_t seed, std::uint32_t stream, std::int64_t count, int dim);

/// x [count][dim] coded and decoded with a codec that the subject made, with Decode::kInnerProduct where it has a sketch, and
/// whatever else the subject does to rows.
std::vector<float> round_trip(const Backend& backend, const PaperSubject& subject,
                              const Codec& codec, const std::vector<float>& x);

/// <x, y> in double.
double inner_product(const float* x, const float* y, int dim);

/// Sums of one cluster, for Estimate of a ratio sum(y) / sum(x): with x = 1 a mean, with products a slope.
struct ClusterSums {
  double x = 0, y = 0;
  std::int64_t samples = 0;
};
/// The ratio over all clusters, and its standard error from their spread: sqrt(C/(C-1) sum (y_c - ratio x_c)^2) / sum x.
Estimate estimate_ratio(const std::vector<ClusterSums>& clusters);

/// Calls measure(cluster) for 0..count-1 on `threads` threads.
std::vector<ClusterSums> measure_clusters(
    int threads, std::int64_t count,
    const std::function<ClusterSums(std::int64_t cluster)>& measure);

}  // namespace tq
