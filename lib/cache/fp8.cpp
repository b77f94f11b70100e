#include "lib/cache/fp8.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>

#include "lib/cache/foreign_parts.h"

namespace tq {
namespace {

class Fp8Method : public CacheMethod {
 public:
  Fp8Method(Fp8Scale scale, int dim) : scale_(scale), dim_(dim) {}

  std::string describe() const override {
    return scale_ == Fp8Scale::kOne ? "fp8 e4m3fn, scale 1 (vLLM)"
                                    : "fp8 e4m3fn, scale amax / 448 a tensor";
  }

  std::uint64_t bytes(std::int64_t heads, std::int64_t tokens) const override {
    const std::uint64_t scale_bytes = scale_ == Fp8Scale::kOne ? 0 : sizeof(float);
    return count_rows(heads, tokens, dim_) + scale_bytes;
  }

  void round_trip(std::span<const float> x, std::int64_t, std::int64_t, std::span<float> x_hat,
                  const std::string&) const override {
    float scale = 1;
    if (scale_ == Fp8Scale::kCalibrated) {
      float largest = 0;
      for (const float value : x) largest = std::max(largest, std::abs(value));
      scale = largest / kMaxE4m3;
    }
    for (std::size_t i = 0; i < x.size(); ++i) {
      x_hat[i] = scale > 0 ? round_to_e4m3(x[i] / scale) * scale : 0.0f;
    }
  }

 private:
  Fp8Scale scale_;
  int dim_;
};

}  // namespace

float round_to_e4m3(float x) {
  const float magnitude = std::abs(x);
  float rounded = kMaxE4m3;
  if (magnitude < 0x1p-6f) {
    // The grid has the fixed step 2^-9, which is float32's from 2^14 on: the adder rounds to it.
    rounded = (magnitude + 0x1p14f) - 0x1p14f;
  } else if (magnitude < kMaxE4m3) {
    const auto bits = std::bit_cast<std::uint32_t>(magnitude);
    const std::uint32_t half_and_odd = 0x7ffff + ((bits >> 20) & 1);
    rounded = std::bit_cast<float>((bits + half_and_odd) & ~0xfffffu);
  }
  return std::copysign(rounded, x);
}

std::shared_ptr<const CacheMethod> make_fp8_method(Fp8Scale scale, int dim) {
  return std::make_shared<Fp8Method>(scale, dim);
}

}  // namespace tq
