// The fast encoders' first part: a lane's run out of its stage, the norm of its row, and what is divided by it. Included by .cu files
// only. K is what a kernel is made for (EncodeKind in gpu_encode_tile.h).
#pragma once

#include <cuda_fp16.h>

#include "kernels/gpu_rows.h"
#include "kernels/gpu_runs.h"
#include "kernels/gpu_warp.h"
#include "lib/math/norm.h"

namespace tq::cuda {

/// Whether a value that went in may be too small to divide so: it also says yes to zeros.
template <bool kBf16>
class MaybeSmall {
 public:
  __device__ __forceinline__ void add_pair(std::uint32_t word) {
#if __CUDA_ARCH__ >= 900
    least_pair_ = __viaddmin_u16x2(word, word, least_pair_);  // one instruction: doubled, a value has lost its sign
#else
    least_pair_ = __vminu2((word & 0x7fff7fffu) << 1, least_pair_);
#endif
  }
  __device__ __forceinline__ void add(float x) { least_ = fminf(least_, fabsf(x)); }
  __device__ __forceinline__ bool get() const {
    if constexpr (!kBf16) return least_ < math::kLeastDividend;
    const std::uint32_t limit = __float_as_uint(math::kLeastDividend) >> 15;
    return (least_pair_ & 0xffffu) < limit || (least_pair_ >> 16) < limit;
  }

 private:
  std::uint32_t least_pair_ = 0xffffffffu;
  float least_ = 1.0f;
};

/// Where in a stage a lane begins to read its run: its first element is the one at order(lane), or a neighbour within 16 bytes.
template <class K>
__device__ std::uint32_t run_place(DType dtype, int lane) {
  const auto order = static_cast<std::uint32_t>(K::R::order(lane)), bytes = static_cast<std::uint32_t>(element_bytes(dtype));
  return bytes * (32u * static_cast<std::uint32_t>(lane) + (order & (bytes == 4 ? 31u : 24u)));
}

/// A lane's run, in the lane's order. first: a shared address. `small` is asked for where rows are divided.
template <class K>
__device__ __forceinline__ void read_run(DType dtype, std::uint32_t first, int lane, float (&x)[32], MaybeSmall<K::kBf16>& small) {
  if (!K::kBf16 && dtype == DType::kF32) {
#pragma unroll
    for (int i = 0; i < 32; i += 4) {
      const uint4 f = load_shared(first ^ (4u * i));
      x[i] = __uint_as_float(f.x), x[i + 1] = __uint_as_float(f.y), x[i + 2] = __uint_as_float(f.z), x[i + 3] = __uint_as_float(f.w);
    }
  } else {
    const bool swap = !K::kBf16 && (K::R::order(lane) & 4) != 0;  // four of eight change place after they are read
#pragma unroll
    for (int i = 0; i < 32; i += 8) {
      const uint4 words = load_shared(first ^ (2u * i));
      const std::uint32_t w[4] = {swap ? words.z : words.x, swap ? words.w : words.y, swap ? words.x : words.z, swap ? words.y : words.w};
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        if constexpr (K::kBf16) {
          x[i + 2 * p] = __uint_as_float(w[p] << 16);
          x[i + 2 * p + 1] = __uint_as_float(w[p] & 0xffff0000u);
          if constexpr (K::kDivideFirst) small.add_pair(w[p]);
        } else {
          const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&w[p]));
          x[i + 2 * p] = pair.x, x[i + 2 * p + 1] = pair.y;
        }
      }
    }
  }
  if constexpr (K::kDivideFirst && !K::kBf16) {
#pragma unroll
    for (int i = 0; i < 32; ++i) small.add(x[i]);
  }
}

/// The sum of the squares of a row, of which a lane has a run: the pairwise tree. `exact`: the products are, so one need not be rounded
/// before the sum.
template <class R, bool exact>
__device__ __forceinline__ float sum_squares(const float (&x)[32]) {
  float terms[16];
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float first = x[2 * i] * x[2 * i], b = x[2 * i + 1];
    terms[i] = exact ? __fmaf_rn(b, b, first) : first + b * b;
  }
  float sum = sum_tree<16>(terms);
#pragma unroll
  for (int lanes = 1; lanes < R::kLanes; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  return sum;
}

/// The square root of 2^-80 or more, and 1 / x for x from 2^-80 to 2^125, correctly rounded: what the compiler makes of sqrtf and the
/// division, without a branch for the others.
__device__ __forceinline__ float square_root_within(float x) {
  float reciprocal;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(x));
  const float root = x * reciprocal;
  return __fmaf_rn(__fmaf_rn(-root, root, x), 0.5f * reciprocal, root);
}

__device__ __forceinline__ float reciprocal_within(float x) {
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(x));
  return __fmaf_rn(reciprocal, -__fmaf_rn(reciprocal, x, -1.0f), reciprocal);
}

/// What is known of a lane's row before its butterflies.
struct RunNorm {
  float norm;
  float scale;  ///< of the row's elements where they are not divided
  bool usual;   ///< its norm is right, and in the range where rows can be divided without a division
  bool sure;    ///< usual, and where rows are divided: so is x, if no value is too small
  bool small;   ///< of this lane's values: MaybeSmall
};

/// x := x / norm, by QuickDivision.
__device__ __forceinline__ void divide_quickly(float (&x)[32], float norm, float reciprocal) {
  const math::QuickDivision<float> quotient{x, norm, reciprocal};
#pragma unroll
  for (int i = 0; i < 32; ++i) x[i] = quotient(i);
}

/// The norm of a row; x := x / norm where rows are divided first, by lib/math's BriefDivision or QuickDivision.
template <class K>
__device__ __forceinline__ RunNorm norm_of_run(float (&x)[32], const MaybeSmall<K::kBf16>& small, float rotation_scale) {
  // Of BF16 values that are not too small, squares are exact.
  const float squares = sum_squares<typename K::R, K::kBf16 && K::kDivideFirst>(x);
  const float norm = square_root_within(squares);
  const float reciprocal = reciprocal_within(norm);
  if constexpr (!K::kDivideFirst) {
    const float scale = math::QuickDivision<float>{&rotation_scale, norm, reciprocal}(0);
    const bool usual = squares > 0x1p-80f && squares < __int_as_float(0x7f800000);
    return {norm, scale, usual, usual, false};
  } else {
    const bool usual = norm > math::kLeastDivisor && norm < 0x1p32f;  // quotients are multiples of 2^-117 (gpu_bins.h)
    if constexpr (K::kBf16) {
      const math::BriefDivision<float> by(norm, reciprocal);
#pragma unroll
      for (int i = 0; i < 32; ++i) x[i] = by(x[i]);
      return {norm, 1.0f, usual, math::divides_briefly(norm) != 0, small.get()};
    } else {
      divide_quickly(x, norm, reciprocal);
      return {norm, 1.0f, usual, usual, small.get()};
    }
  }
}

/// The same quotients of BF16 rows by the longer way, for a tile with a norm that is usual but not sure: 2 of 2^23 significands, or 2^16
/// and more. first: as of read_run()
template <class K>
__device__ __forceinline__ void divide_again(DType dtype, std::uint32_t first, int lane, float norm, float (&x)[32]) {
  MaybeSmall<K::kBf16> ignored;
  read_run<K>(dtype, first, lane, x, ignored);
  divide_quickly(x, norm, reciprocal_within(norm));
}

/// Whether a lane's run holds a value, not 0, that is too small to divide in the fast way: for tiles of which MaybeSmall is not sure.
template <bool kBf16>
__device__ __forceinline__ bool holds_small(DType dtype, std::uint32_t stage, int lane) {
  const int bytes = 32 * element_bytes(dtype);
  bool found = false;
#pragma unroll 1
  for (int at = 0; at < bytes; at += 16) {
    const uint4 words = load_shared(stage + static_cast<std::uint32_t>(bytes * lane + at));
    for (const std::uint32_t w : {words.x, words.y, words.z, words.w}) {
      float x[2] = {__uint_as_float(w), 0.0f};
      if (kBf16 || dtype == DType::kF16) load_row(kBf16 ? DType::kBf16 : dtype, reinterpret_cast<const std::uint8_t*>(&w), 2, x);
      found |= (fabsf(x[0]) < math::kLeastDividend && x[0] != 0.0f) || (fabsf(x[1]) < math::kLeastDividend && x[1] != 0.0f);
    }
  }
  return found;
}

}  // namespace tq::cuda
