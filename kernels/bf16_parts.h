// A float as a sum of BF16 values: x = hi + mid + lo, each the nearest BF16 to what the ones before leave. Three hold every float32
// whose last bit is 2^-133 or more, two every F16, one every BF16, exactly; so a product of float32 matrices is a few products of BF16 ones.
#pragma once

#include <cstdint>

#include "lib/dtype.h"
#include "lib/math/convert.h"

namespace tq {

inline constexpr int kMostParts = 3;

/// Parts that hold every value of the type, F32, F16 or BF16.
TQ_HD constexpr int parts_of(DType dtype) { return dtype == DType::kBf16 ? 1 : dtype == DType::kF16 ? 2 : 3; }

/// The next part of x, whose value x loses. The difference is exact. NaN and infinity end in NaN.
TQ_HD std::uint16_t take_part(float& x) {
  const std::int32_t bits = math::bf16_from_float(x);
  x -= math::float_from_bf16(bits);
  return static_cast<std::uint16_t>(bits);
}

/// Products of parts i of x and j of w are summed for i + j <= kLastSum, smallest first: what is left out is below 2^-24 of |x||w|.
inline constexpr int kLastSum = 2;

}  // namespace tq
