// What the fast decoders share. Included by .cu files only.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "kernels/gpu_target.h"

namespace tq::cuda {

/// Rows of 96 under H_12: decode_lane_row.cu.
void decode_rows_96(const DecodeArgs& args);

/// Two values as a word of BF16 or F16, rounded to nearest even.
__device__ __forceinline__ std::uint32_t round_pair(DType dtype, float low, float high) {
  std::uint32_t word;
  if (dtype == DType::kBf16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    memcpy(&word, &pair, 4);
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    memcpy(&word, &pair, 4);
  }
  return word;
}

}  // namespace tq::cuda
