#include "lib/model/ops.h"

#include <algorithm>
#include <cmath>

#include "lib/model/linear.h"

namespace tq {

LoadedNorm::LoadedNorm(const WeightReader& reader, const Norm& norm) : kind_(norm.kind), eps_(norm.eps) {
  if (!norm) return;
  weight_ = read_vector(reader, *norm.weight);
  if (norm.bias != nullptr) bias_ = read_vector(reader, *norm.bias);
  if (kind_ == NormKind::kRmsPlusOne) {
    for (float& w : weight_) w += 1.0f;
  }
}

void LoadedNorm::apply(const float* in, float* out, std::int64_t rows, std::int64_t dim, std::int64_t stride) const {
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* x = in + r * stride;
    float* y = out + r * stride;
    if (weight_.empty()) {
      if (x != y) std::copy(x, x + dim, y);
      continue;
    }
    double mean = 0;
    if (kind_ == NormKind::kLayer) {
      for (std::int64_t i = 0; i < dim; ++i) mean += static_cast<double>(x[i]);
      mean /= static_cast<double>(dim);
    }
    double energy = 0;
    for (std::int64_t i = 0; i < dim; ++i) {
      const double centered = static_cast<double>(x[i]) - mean;
      energy += centered * centered;
    }
    const auto scale = static_cast<float>(1.0 / std::sqrt(energy / static_cast<double>(dim) + eps_));
    const auto offset = static_cast<float>(mean);
    for (std::int64_t i = 0; i < dim; ++i) y[i] = (x[i] - offset) * scale * weight_[static_cast<std::size_t>(i)];
    if (bias_.empty()) continue;
    for (std::int64_t i = 0; i < dim; ++i) y[i] += bias_[static_cast<std::size_t>(i)];
  }
}

void cap_softly(double cap, std::span<float> x) {
  const auto c = static_cast<float>(cap);
  for (float& value : x) value = c * std::tanh(value / c);
}

}  // namespace tq
