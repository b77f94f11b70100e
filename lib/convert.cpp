#include "lib/convert.h"

#include <cstring>

#include "lib/math/convert.h"

namespace tq {

void convert_to_float(DType dtype, const void* from, std::int64_t count, float* to) {
  if (count == 0) return;  // of nothing, pointers may be null
  if (dtype == DType::kF32) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
    return;
  }
  const auto* halves = static_cast<const std::uint16_t*>(from);
  if (dtype == DType::kF16) {
    for (std::int64_t i = 0; i < count; ++i) to[i] = math::float_from_f16<std::int32_t>(halves[i]);
  } else {
    for (std::int64_t i = 0; i < count; ++i) to[i] = math::float_from_bf16<std::int32_t>(halves[i]);
  }
}

void convert_from_float(const float* from, std::int64_t count, DType dtype, void* to) {
  if (count == 0) return;
  if (dtype == DType::kF32) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
    return;
  }
  auto* halves = static_cast<std::uint16_t*>(to);
  for (std::int64_t i = 0; i < count; ++i) {
    halves[i] = static_cast<std::uint16_t>(dtype == DType::kF16 ? math::f16_from_float(from[i])
                                                                : math::bf16_from_float(from[i]));
  }
}

}  // namespace tq
