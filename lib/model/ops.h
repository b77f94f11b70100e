// Norms and activations of the forward pass, in float32 with sums in double.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/model/config.h"
#include "lib/model/layout.h"

namespace tq {

/// A norm whose weights have been read. Without weights it passes its input on.
class LoadedNorm {
 public:
  LoadedNorm() = default;
  LoadedNorm(const WeightReader& reader, const Norm& norm);

  /// in and out: `rows` rows of `dim` values, `stride` floats apart; they may be the same.
  void apply(const float* in, float* out, std::int64_t rows, std::int64_t dim, std::int64_t stride) const;

 private:
  NormKind kind_ = NormKind::kRms;
  double eps_ = 0;
  std::vector<float> weight_, bias_;
};

/// x becomes cap tanh(x / cap).
void cap_softly(double cap, std::span<float> x);

}  // namespace tq
