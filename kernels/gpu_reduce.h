// Sums and maxima over the threads of a block, in one order. Included by .cu files only.
#pragma once

#include <cstdint>

namespace tq::cuda {

inline constexpr int kRowThreads = 256;  ///< of a block that has a row

/// The sum over a block of kRowThreads threads, given to all of them.
__device__ inline double sum_of_block(double value) {
  __shared__ double of_warp[kRowThreads / 32];
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffff, value, step);
  __syncthreads();  // of_warp may still be read from the call before
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  for (int warp = 0; warp < kRowThreads / 32; ++warp) sum += of_warp[warp];
  return sum;
}

/// A value and where it stands.
struct Top {
  double value;
  std::int64_t place;
};

/// The larger; of equals the first.
__device__ inline Top larger(Top a, Top b) {
  return b.value > a.value || (b.value == a.value && b.place < a.place) ? b : a;
}

__device__ inline Top top_of_block(Top top) {
  __shared__ Top of_warp[kRowThreads / 32];
  for (int step = 16; step > 0; step /= 2) {
    top = larger(top, {__shfl_xor_sync(0xffffffff, top.value, step), __shfl_xor_sync(0xffffffff, top.place, step)});
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = top;
  __syncthreads();
  top = of_warp[0];
  for (int warp = 1; warp < kRowThreads / 32; ++warp) top = larger(top, of_warp[warp]);
  return top;
}

}  // namespace tq::cuda
