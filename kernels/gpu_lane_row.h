// Rows of 96 elements, one row a lane, all of it in registers: encode_lane_row.cu and decode_lane_row.cu. A row is 12 chunks of 8 under
// H_12, whose signs are constants of the program (hadamard12.h), so the loops over it are unrolled, and no step needs another lane. A
// warp works on 32 rows, a tile, at a time. (By column, as in gpu_tile.h, the sums over 12 chunks would be no tree of shuffles.)
// Included by .cu files only.
#pragma once

#include "kernels/gpu_plain.h"
#include "kernels/gpu_tile.h"
#include "kernels/hadamard12.h"

namespace tq::cuda {

inline constexpr int kRowChunks = kLaneRowDim / 8;

/// Element e of chunk c is row[c][e].
using LaneRow = float[kRowChunks][8];

/// The pairwise tree of lib/math over the chunks.
__device__ __forceinline__ float sum_row_chunks(const float (&t)[kRowChunks]) { return sum_tree<8>(t) + sum_tree<4>(t + 8); }

/// Whether the rotation's matrix is the one these kernels know. All threads of the block call it.
__device__ __forceinline__ bool has_hadamard12(const float* matrix, int thread, int threads) {
  bool same = true;
  for (int i = thread; i < 144; i += threads) same &= matrix[i] == (hadamard12_is_minus(i / 12, i % 12) ? -1.0f : 1.0f);
  return __syncthreads_and(same ? 1 : 0) != 0;
}

/// x := H_12 x, or its transpose, across the chunks: mix_blocks() of lib/math with constants for the table. A sum of zero may have a
/// sign, as it may not there.
template <bool kTransposed>
__device__ __forceinline__ void mix_twelve(LaneRow& x) {
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    float sums[3][8];  // of four chunks: b, c and d enter with a minus where bit 0, 1, 2 is set
#pragma unroll
    for (int q = 0; q < 3; ++q) {
      const float a = x[4 * q][e], b = x[4 * q + 1][e], c = x[4 * q + 2][e], d = x[4 * q + 3][e];
      const float left[2] = {a + b, a - b};
      const float right[2] = {c + d, c - d};
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float other = right[(j >> 1 & 1) ^ (j >> 2)];
        sums[q][j] = (j & 2) != 0 ? left[j & 1] - other : left[j & 1] + other;
      }
    }
#pragma unroll
    for (int a = 0; a < kRowChunks; ++a) {
      float terms[3];
#pragma unroll
      for (int q = 0; q < 3; ++q) {
        int minus = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int b = 4 * q + j;
          minus |= (kTransposed ? hadamard12_is_minus(b, a) : hadamard12_is_minus(a, b)) ? 1 << j : 0;
        }
        terms[q] = (minus & 1) != 0 ? -sums[q][(~minus & 15) >> 1] : sums[q][minus >> 1];
      }
      x[a][e] = (terms[0] + terms[1]) + terms[2];
    }
  }
}

/// Eight floats of shared memory that all lanes read.
__device__ __forceinline__ void load_eight(const float* from, float (&to)[8]) {
  const float4 low = reinterpret_cast<const float4*>(from)[0], high = reinterpret_cast<const float4*>(from)[1];
  to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
  to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
}

}  // namespace tq::cuda
