// A tile: whole rows of one dim on the lanes of a warp, for the fast kernels. Included by .cu files only.
//
// A row is C chunks of 8 elements. A tile has 1024 elements, 32 a lane, and lies on the lanes in two ways:
//   by chunk   lane l holds chunks l, l + 32, ... of the tile, 8 neighbours each: rows in memory are read and written 16 bytes a
//              lane, and the butterflies of strides 1, 2, 4 need no other lane;
//   by column  kLanesPerRow lanes share a row, and each holds the same kWidth elements of every chunk: the butterflies of strides
//              8, 16, ... need no other lane.
// Between the two a tile goes through shared memory once. Four elements of a chunk change place with the other four in every
// other quad of chunks, and rows are 8 words apart beyond their length: no two lanes of an access meet in a bank.
#pragma once

#include <cstdint>

#include "kernels/gpu_target.h"
#include "lib/math/rotation.h"

namespace tq::cuda {

template <int Chunks>
struct Tile {
  static constexpr int kChunks = Chunks;
  static constexpr int kDim = 8 * Chunks;
  static constexpr int kRows = 1024 / kDim;
  static constexpr int kLanesPerRow = 32 / kRows;
  static constexpr int kWidth = 8 / kLanesPerRow;
  static constexpr int kPerLane = 4;         ///< chunks of a lane
  static constexpr int kPitch = kDim + 8;    ///< floats from row to row in shared memory
  static constexpr int kFloats = kRows * kPitch;
};

/// Chunks of a tile: chunk k of tile t is chunk 128 t + k of the rows, whatever the dim, so a tile is contiguous.
inline constexpr int kTileChunks = 128;

/// Chunks from this lane's first one in a tile to the last of all rows; a lane has chunk `lane + 32 i` where 32 i is less.
template <class T>
__device__ __forceinline__ int chunks_left(std::int64_t rows, std::int64_t tile, int lane) {
  return static_cast<int>(min(rows * T::kChunks - tile * kTileChunks - lane, std::int64_t{kTileChunks}));
}

/// Word of element `e` (0..7) of chunk c of a row in shared memory.
__device__ __forceinline__ constexpr int place_of(int c, int e) { return 8 * c + ((e & 4) ^ (c & 4)) + (e & 3); }

/// Butterflies of strides 1, 2, 4 on a chunk, after its signs (+1 or -1): a product with a sign and a sum round as the sum alone.
__device__ __forceinline__ void transform_chunk(float (&x)[8], const float (&sign)[8]) {
#pragma unroll
  for (int i = 0; i < 8; i += 2) {
    const float a = x[i] * sign[i];
    const float b = x[i + 1];
    x[i] = __fmaf_rn(b, sign[i + 1], a);
    x[i + 1] = __fmaf_rn(b, -sign[i + 1], a);
  }
#pragma unroll
  for (int stride = 2; stride < 8; stride *= 2) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if ((i & stride) != 0) continue;
      const float a = x[i];
      const float b = x[i + stride];
      x[i] = a + b;
      x[i + stride] = a - b;
    }
  }
}

/// Butterflies of strides 8, 16, ... on a lane's columns.
template <class T>
__device__ __forceinline__ void transform_columns(float (&v)[T::kChunks][T::kWidth]) {
#pragma unroll
  for (int stride = 1; stride < T::kChunks; stride *= 2) {
#pragma unroll
    for (int c = 0; c < T::kChunks; ++c) {
      if ((c & stride) != 0) continue;
#pragma unroll
      for (int j = 0; j < T::kWidth; ++j) {
        const float a = v[c][j];
        const float b = v[c + stride][j];
        v[c][j] = a + b;
        v[c + stride][j] = a - b;
      }
    }
  }
}

/// A chunk into shared memory; `row` is the row's first float there.
__device__ __forceinline__ void store_chunk(float* row, int c, const float (&x)[8]) {
  *reinterpret_cast<float4*>(row + place_of(c, 0)) = make_float4(x[0], x[1], x[2], x[3]);
  *reinterpret_cast<float4*>(row + place_of(c, 4)) = make_float4(x[4], x[5], x[6], x[7]);
}

__device__ __forceinline__ void load_chunk(const float* row, int c, float (&x)[8]) {
  const float4 low = *reinterpret_cast<const float4*>(row + place_of(c, 0));
  const float4 high = *reinterpret_cast<const float4*>(row + place_of(c, 4));
  x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
  x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
}

/// kWidth floats at once.
template <int Width>
__device__ __forceinline__ void load_width(const float* from, float (&v)[Width]) {
  if constexpr (Width == 4) {
    const float4 f = *reinterpret_cast<const float4*>(from);
    v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
  } else if constexpr (Width == 2) {
    const float2 f = *reinterpret_cast<const float2*>(from);
    v[0] = f.x, v[1] = f.y;
  } else {
    v[0] = *from;
  }
}

template <int Width>
__device__ __forceinline__ void store_width(float* to, const float (&v)[Width]) {
  if constexpr (Width == 4) {
    *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
  } else if constexpr (Width == 2) {
    *reinterpret_cast<float2*>(to) = make_float2(v[0], v[1]);
  } else {
    *to = v[0];
  }
}

/// The columns of lane `m` of a row, from shared memory.
template <class T>
__device__ __forceinline__ void load_columns(const float* row, int m, float (&v)[T::kChunks][T::kWidth]) {
  const int e = T::kWidth * m;
#pragma unroll
  for (int c = 0; c < T::kChunks; ++c) load_width<T::kWidth>(row + place_of(c, e), v[c]);
}

/// Sum of n (a power of two) values as the pairwise tree of lib/math.
template <int n>
__device__ __forceinline__ float sum_tree(const float* terms) {
  if constexpr (n == 1) {
    return terms[0];
  } else {
    return sum_tree<n / 2>(terms) + sum_tree<n / 2>(terms + n / 2);
  }
}

/// +1 or -1 from a sign bit.
__device__ __forceinline__ float sign_of(std::uint32_t bit) { return __uint_as_float(0x3f800000u | bit); }

}  // namespace tq::cuda
