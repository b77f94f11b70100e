// Rows of 64, 128 or 256 elements on the lanes of a warp, for the fast encoders. Included by .cu files only.
//
// A row is L = 2, 4 or 8 runs of 32 neighbours, one a lane, so that a lane knows half of what its row needs: the sums of 32 squares and
// the butterflies of strides 1 to 16. The strides from 32 on go across runs: lanes exchange their elements once, after which lane m of a
// row holds its column, neighbours m * 32 / L and on of each run. A tile is 32 runs, 1024 elements, contiguous in memory.
//
// A butterfly is a product with +1 or -1 and a sum, whose rounding is the sum's, where the product is the sign of its second element
// relative to its first. The sign of the first is left to the next butterfly, and that of all to the signs after the transform. So the
// signs of the rotation cost no instruction, and neither do three changes of order, which a Hadamard transform turns into signs:
//   - Lanes that read 16 bytes of a run each would all meet in the same few banks, so lane l reads its words in the order i ^ s with an
//     s of its own. A difference of two elements that changed place is minus itself.
//   - Butterflies with minus their sign put their sum where the difference would be, so the outputs of lane m lie in the order c ^ m of
//     columns c: what goes to lane m ^ k is in the same registers of all lanes, and a shuffle exchanges it; what stays (k = 0) stays.
//   - What comes from lane m ^ k is of run m ^ k, so the runs of a column lie in the order k ^ m.
#pragma once

#include <cstdint>

#include "kernels/gpu_tile.h"
#include "lib/math/rotation.h"

namespace tq::cuda {

/// L lanes a row; `Granule` elements stay together when they are read in another order: 16 bytes of elements.
template <int L, int Granule>
struct Runs {
  static constexpr int kLanes = L;
  static constexpr int kDim = 32 * L;
  static constexpr int kRows = 32 / L;   ///< of a tile
  static constexpr int kWidth = 32 / L;  ///< neighbours of a run in a column
  static constexpr int kGranule = Granule;
  static constexpr int kGroups = kWidth > Granule ? kWidth / Granule : 1;  ///< of neighbours of a column that share a sign

  /// Where RunSigns has the sign of the butterflies of a stride whose first element is i of a run; or in run q, of a group of the column.
  template <int Stride>
  static __host__ __device__ constexpr int run_place(int i) {
    return 16 - 32 / Stride + i / (2 * Stride);
  }
  template <int Stride>
  static __host__ __device__ constexpr int column_place(int q, int group) {
    return (L - L / Stride + q / (2 * Stride)) * kGroups + group;
  }

  /// Elements of lane `lane`'s run lie in the order i ^ order(lane).
  static __device__ __forceinline__ int order(int lane) {
    return Granule == 8 ? (lane >> 1 & 3) * 8 : (lane & 7) * 4;
  }
};

/// The factors of stride 1, for which a lane has no registers: lane l and l + 8 have the same.
struct alignas(16) PairSigns {
  float factors[4][8][4];

  /// What thread `thread` of the block, of 128, puts there.
  template <class R>
  static __device__ float read(const math::RotationView& rotation, int thread) {
    const int lane = thread / 4 % 8, i = 2 * (thread / 32 * 4 + thread % 4);
    const std::uint32_t* own = rotation.signs1 + 32 * (lane % R::kLanes);
    const int order = R::order(lane);
    return sign_of(own[i ^ order] ^ own[(i + 1) ^ order]);
  }
  __device__ void put(int thread, float factor) { factors[thread / 32][thread / 4 % 8][thread % 4] = factor; }
};

/// The signs of a lane's run, and of its column, relative to each other: factors +1 and -1 of the butterflies.
template <class R>
struct RunSigns {
  const float4* pairs;                          ///< of stride 1: this lane's in PairSigns
  float run[15];                                ///< of strides 2, 4, 8, 16: 8, 4, 2, 1 of them
  float column[(R::kLanes - 1) * R::kGroups];   ///< of strides 32, 64, 128: one for each pair of runs and group
  float out[R::kLanes][R::kWidth];              ///< after the transform, times a unit

  __device__ RunSigns(const math::RotationView& rotation, const PairSigns& of_pairs, float unit, int lane)
      : pairs(reinterpret_cast<const float4*>(of_pairs.factors[0][lane % 8])) {
    const int m = lane % R::kLanes, first_lane = lane - m;
    const std::uint32_t* own = rotation.signs1 + 32 * m;
    const int order = R::order(lane);
    std::uint32_t first[32];
#pragma unroll
    for (int i = 0; i < 32; i += 4) read_four(own + (i ^ order), first + i);
    set_run<2>(first, m);
    // What the transform of run q leaves on the elements of this lane's column.
    const auto left = [&](int q, int group) {
      const int swapped = R::order(first_lane + q);
      const int element = R::kWidth * m + R::kGranule * group;
      return rotation.signs1[32 * q + swapped] ^ static_cast<std::uint32_t>(__popc(swapped & element) << 31);
    };
    set_column<1>(left, m);
#pragma unroll
    for (int q = 0; q < R::kLanes; ++q) {
      const auto order_sign = static_cast<std::uint32_t>(__popc(q & m) << 31);
      std::uint32_t after[R::kWidth];
#pragma unroll
      for (int j = 0; j < R::kWidth; j += 4) read_four(rotation.signs2 + 32 * q + R::kWidth * m + j, after + j);
#pragma unroll
      for (int j = 0; j < R::kWidth; ++j) out[q][j] = unit * sign_of(after[j] ^ left(m, j / R::kGranule) ^ order_sign);
    }
  }

 private:
  static __device__ __forceinline__ void read_four(const std::uint32_t* from, std::uint32_t* words) {
    const uint4 four = *reinterpret_cast<const uint4*>(from);
    words[0] = four.x, words[1] = four.y, words[2] = four.z, words[3] = four.w;
  }
  template <int Stride>
  __device__ __forceinline__ void set_run(const std::uint32_t (&first)[32], int m) {
    const std::uint32_t swapped = (m & (Stride / R::kWidth)) != 0 ? 0x80000000u : 0;  // sum and difference
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      if (i % (2 * Stride) == 0) run[R::template run_place<Stride>(i)] = sign_of(first[i] ^ first[i + Stride] ^ swapped);
    }
    if constexpr (Stride < 16) set_run<2 * Stride>(first, m);
  }
  template <int Stride, class Left>
  __device__ __forceinline__ void set_column(const Left& left, int m) {
#pragma unroll
    for (int q = 0; q < R::kLanes; ++q) {
      if (q % (2 * Stride) != 0) continue;
#pragma unroll
      for (int g = 0; g < R::kGroups; ++g) {
        column[R::template column_place<Stride>(q, g)] = sign_of(left(q ^ m, g) ^ left((q + Stride) ^ m, g));
      }
    }
    if constexpr (2 * Stride < R::kLanes) set_column<2 * Stride>(left, m);
  }
};

/// a, b := a + sign * b, a - sign * b.
__device__ __forceinline__ void add_pair(float& a, float& b, float sign) {
  const float first = a, second = b;
  a = __fmaf_rn(second, sign, first);
  b = __fmaf_rn(second, -sign, first);
}

/// Butterflies of strides 1 to 16 on a lane's run.
template <class R, int kStride = 2>
__device__ __forceinline__ void transform_run(float (&x)[32], const RunSigns<R>& signs) {
  if constexpr (kStride == 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4 f = signs.pairs[8 * i];
      add_pair(x[8 * i], x[8 * i + 1], f.x);
      add_pair(x[8 * i + 2], x[8 * i + 3], f.y);
      add_pair(x[8 * i + 4], x[8 * i + 5], f.z);
      add_pair(x[8 * i + 6], x[8 * i + 7], f.w);
    }
  }
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    if ((i & kStride) == 0) add_pair(x[i], x[i + kStride], signs.run[R::template run_place<kStride>(i)]);
  }
  if constexpr (kStride < 16) transform_run<R, 2 * kStride>(x, signs);
}

/// Butterflies of strides 32, 64, 128 on a lane's column.
template <class R, int kStride = 1>
__device__ __forceinline__ void transform_column(float (&v)[R::kLanes][R::kWidth], const RunSigns<R>& signs) {
#pragma unroll
  for (int q = 0; q < R::kLanes; ++q) {
    if ((q & kStride) != 0) continue;
#pragma unroll
    for (int j = 0; j < R::kWidth; ++j) {
      add_pair(v[q][j], v[q + kStride][j], signs.column[R::template column_place<kStride>(q, j / R::kGranule)]);
    }
  }
  if constexpr (2 * kStride < R::kLanes) transform_column<R, 2 * kStride>(v, signs);
}

/// The columns of lanes that hold transformed runs.
template <class R>
__device__ __forceinline__ void exchange_columns(const float (&x)[32], float (&v)[R::kLanes][R::kWidth]) {
#pragma unroll
  for (int k = 0; k < R::kLanes; ++k) {
#pragma unroll
    for (int j = 0; j < R::kWidth; ++j) {
      v[k][j] = k == 0 ? x[j] : __shfl_xor_sync(0xffffffffu, x[R::kWidth * k + j], k);
    }
  }
}

/// The sum over a row of terms that its lanes hold, as the pairwise tree goes on: terms[q] is of run q and of this lane's neighbours in it.
/// All lanes of the row get it.
template <class R>
__device__ __forceinline__ float sum_columns(const float (&terms)[R::kLanes], int lane) {
  float t[R::kLanes];
#pragma unroll
  for (int q = 0; q < R::kLanes; ++q) t[q] = terms[q];
#pragma unroll
  for (int bit = 1, left = R::kLanes; bit < R::kLanes; bit *= 2, left /= 2) {  // runs spread over the lanes while they are added
    const bool odd = (lane & bit) != 0;
#pragma unroll
    for (int q = 0; q < left / 2; ++q) {
      const float other = __shfl_xor_sync(0xffffffffu, odd ? t[2 * q] : t[2 * q + 1], bit);
      t[q] = (odd ? t[2 * q + 1] : t[2 * q]) + other;
    }
  }
#pragma unroll
  for (int bit = 1; bit < R::kLanes; bit *= 2) t[0] += __shfl_xor_sync(0xffffffffu, t[0], bit);
  return t[0];
}

}  // namespace tq::cuda
