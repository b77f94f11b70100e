// A tile: whole rows of one dim on the lanes of a warp, for the fast decoders; encoders have gpu_runs.h. Included by .cu files only.
//
// A row is C chunks of 8 elements. A tile has 1024 elements, 32 a lane, and lies on the lanes in two ways:
//   by chunk   lane l holds chunks l, l + 32, ... of the tile, 8 neighbours each: rows in memory are read and written 16 bytes a
//              lane, and the butterflies of strides 1, 2, 4 need no other lane;
//   by column  kLanesPerRow lanes share a row, and each holds the same kWidth elements of every chunk: the butterflies of strides
//              8, 16, ... need no other lane.
// Chunk k of tile t is chunk 128 t + k of all rows, whatever the dim, so a tile is contiguous in memory.
//
// Between the two a tile goes through shared memory once. Four elements of a chunk change place with the other four in every
// other quad of chunks, and rows are 8 words apart beyond their length: no two lanes of an access meet in a bank.
#pragma once

#include <cstdint>

#include "kernels/gpu_launch.h"
#include "lib/math/rotation.h"

namespace tq::cuda {

template <int Chunks>
struct Tile {
  static constexpr int kChunks = Chunks;
  static constexpr int kDim = 8 * Chunks;
  static constexpr int kRows = 1024 / kDim;
  static constexpr int kLanesPerRow = 32 / kRows;
  static constexpr int kWidth = 8 / kLanesPerRow;
  static constexpr int kPitch = kDim + 8;    ///< floats from row to row in shared memory
  static constexpr int kFloats = kRows * kPitch;
  static_assert(kFloats == tile_floats(kDim) && kRows * kDim == kTileElements);
};

/// Word of element `e` (0..7) of chunk c of a row in shared memory.
__device__ __forceinline__ constexpr int place_of(int c, int e) { return 8 * c + ((e & 4) ^ (c & 4)) + (e & 3); }

/// One level of butterflies on a chunk.
template <int kStride>
__device__ __forceinline__ void add_pairs(float (&x)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if ((i & kStride) != 0) continue;
    const float a = x[i];
    const float b = x[i + kStride];
    x[i] = a + b;
    x[i + kStride] = a - b;
  }
}

/// Butterflies of strides 1, 2, 4 on a chunk.
__device__ __forceinline__ void transform_chunk(float (&x)[8]) {
  add_pairs<1>(x);
  add_pairs<2>(x);
  add_pairs<4>(x);
}

/// The same after its signs (+1 or -1): a product with a sign and a sum round as the sum alone.
__device__ __forceinline__ void transform_chunk(float (&x)[8], const float (&sign)[8]) {
#pragma unroll
  for (int i = 0; i < 8; i += 2) {
    const float a = x[i] * sign[i];
    const float b = x[i + 1];
    x[i] = __fmaf_rn(b, sign[i + 1], a);
    x[i + 1] = __fmaf_rn(b, -sign[i + 1], a);
  }
  add_pairs<2>(x);
  add_pairs<4>(x);
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

/// This lane's chunks in a tile in shared memory. They are the same chunk of rows that lie 32 / kChunks apart, so that all places
/// follow from two.
template <class T>
class LaneChunks {
 public:
  __device__ LaneChunks(float* tile, int lane)
      : low_(tile + lane / T::kChunks * T::kPitch + place_of(lane % T::kChunks, 0)),
        high_(tile + lane / T::kChunks * T::kPitch + place_of(lane % T::kChunks, 4)) {}

  /// Chunk lane + 32 i of the tile.
  __device__ __forceinline__ void store(int i, const float (&x)[8]) const {
    *reinterpret_cast<float4*>(low_ + i * kStep) = make_float4(x[0], x[1], x[2], x[3]);
    *reinterpret_cast<float4*>(high_ + i * kStep) = make_float4(x[4], x[5], x[6], x[7]);
  }
  __device__ __forceinline__ void load(int i, float (&x)[8]) const {
    const float4 low = *reinterpret_cast<const float4*>(low_ + i * kStep);
    const float4 high = *reinterpret_cast<const float4*>(high_ + i * kStep);
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
    x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
  }

 private:
  static constexpr int kStep = 32 / T::kChunks * T::kPitch;
  float* low_;
  float* high_;
};

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

/// This lane's columns in a tile in shared memory: kWidth elements of every chunk of row lane / kLanesPerRow. All places follow from
/// those in chunk 0 and in chunk 4.
template <class T>
class LaneColumns {
 public:
  __device__ LaneColumns(float* tile, int lane)
      : even_(tile + lane / T::kLanesPerRow * T::kPitch + place_of(0, T::kWidth * (lane % T::kLanesPerRow))),
        odd_(tile + lane / T::kLanesPerRow * T::kPitch + place_of(4, T::kWidth * (lane % T::kLanesPerRow)) - 32) {}

  __device__ __forceinline__ void load(float (&v)[T::kChunks][T::kWidth]) const {
#pragma unroll
    for (int c = 0; c < T::kChunks; ++c) load_width<T::kWidth>(((c & 4) == 0 ? even_ : odd_) + 8 * c, v[c]);
  }
  __device__ __forceinline__ void store(int c, const float (&x)[T::kWidth]) const {
    store_width<T::kWidth>(((c & 4) == 0 ? even_ : odd_) + 8 * c, x);
  }

 private:
  float* even_;
  float* odd_;
};

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
