// Arrays of F32, F16 and BF16 values to and from float32.
#pragma once

#include <cstdint>

#include "lib/dtype.h"

namespace tq {

/// count values of `dtype` (F32, F16 or BF16) -> float32, exact.
void convert_to_float(DType dtype, const void* from, std::int64_t count, float* to);

/// float32 -> count values of `dtype`, rounded to nearest even; overflow becomes infinity.
void convert_from_float(const float* from, std::int64_t count, DType dtype, void* to);

}  // namespace tq
