// From the codes that lanes hold by column to the words of the rows. A lane has kWidth codes of every chunk of its row. It puts those
// of four chunks into words, a byte a chunk; the lanes of a row exchange these through shared memory; then each lane has all codes of
// four chunks: it sums the energy of their levels where the norm needs it, packs and writes them. Included by .cu files only.
#pragma once

#include <cstdint>

#include "kernels/gpu_tile.h"

namespace tq::cuda {

/// The codes of a lane. Words of a share (four chunks): byte k holds codes 2 p and 2 p + 1 of chunk k in word p, or where a lane has one
/// code of a chunk, that code.
template <class T>
struct LaneCodes {
  static constexpr int kShares = T::kChunks / 4;
  static constexpr int kWords = T::kWidth == 4 ? 2 : 1;
  std::uint32_t word[kShares][kWords] = {};

  /// Codes come in descending order of chunks, and in a chunk in descending order.
  template <int Bits>
  __device__ __forceinline__ void push(int c, int j, std::uint32_t code) {
    std::uint32_t& into = word[c / 4][T::kWidth == 4 ? j / 2 : 0];
    into = (into << (T::kWidth == 1 ? 8 : j % 2 == 1 ? 8 - Bits : Bits)) + code;
  }
};

/// Dot product of the four bytes of `bytes` and of `weights`, plus `sum`.
__device__ __forceinline__ std::uint32_t dot_bytes(std::uint32_t bytes, std::uint32_t weights, std::uint32_t sum) {
  return __dp4a(bytes, weights, sum);
}

/// w[p]: byte k holds codes 2 p and 2 p + 1 of chunk k -> the words of four chunks, Bits bytes each. out: Bits words.
template <int Bits>
__device__ __forceinline__ void pack_four_chunks(const std::uint32_t (&w)[4], std::uint32_t (&out)[Bits]) {
  // Bytes of two words side by side: of chunk 0 or 2 in the low half, of the next chunk in the high half.
  std::uint32_t t[2][2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    t[0][h] = __byte_perm(w[2 * h], w[2 * h + 1], 0x5140);
    t[1][h] = __byte_perm(w[2 * h], w[2 * h + 1], 0x7362);
  }
  if constexpr (Bits == 4) {
#pragma unroll
    for (int k = 0; k < 4; ++k) out[k] = __byte_perm(t[k / 2][0], t[k / 2][1], k % 2 == 0 ? 0x5410 : 0x7632);
  } else if constexpr (Bits == 3) {
    std::uint32_t twelve[8];  // bits, in order
#pragma unroll
    for (int k = 0; k < 8; ++k) twelve[k] = dot_bytes(t[k / 4][k % 2], k / 2 % 2 == 0 ? 0x00004001u : 0x40010000u, 0);
    out[0] = twelve[0] + (twelve[1] << 12) + (twelve[2] << 24);
    out[1] = (twelve[2] >> 8) + (twelve[3] << 4) + (twelve[4] << 16) + (twelve[5] << 28);
    out[2] = (twelve[5] >> 4) + (twelve[6] << 8) + (twelve[7] << 20);
  } else {
#pragma unroll
    for (int k = 0; k < 2; ++k) {  // four bits a byte: two bytes become one
      const std::uint32_t low = t[k][0] + (t[k][0] >> 4), high = t[k][1] + (t[k][1] >> 4);
      out[k] = __byte_perm(low, high, 0x6240);
    }
  }
}

/// Energies of two levels, by the byte of their codes, in shared memory: several copies, so that fewer lanes meet in a bank.
template <int Bits>
struct PairEnergies {
  static constexpr int kCopies = 8;
  float terms[kCopies << (2 * Bits)];

  __device__ void fill(const float* levels, int thread, int threads) {
    for (int i = thread; i < (kCopies << (2 * Bits)); i += threads) {
      const float first = levels[i / kCopies & ((1 << Bits) - 1)], second = levels[i / kCopies >> Bits];
      terms[i] = first * first + second * second;
    }
  }

  /// Shared address of a lane's copy.
  __device__ std::uint32_t origin(int lane) const {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(terms + lane % kCopies));
  }
};

/// <c, c> of a row, as a pairwise tree, from what gather() gave its lanes.
template <class T, int Bits>
__device__ __forceinline__ float sum_energy(const std::uint32_t (&w)[4], std::uint32_t origin) {
  const auto look_up = [&](int p, int k) {
    float term;
    asm("ld.shared.f32 %0, [%1];" : "=f"(term) : "r"(dot_bytes(w[p], 4u * PairEnergies<Bits>::kCopies << (8 * k), origin)));
    return term;
  };
  float chunk[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) chunk[k] = (look_up(0, k) + look_up(1, k)) + (look_up(2, k) + look_up(3, k));
  float sum = (chunk[0] + chunk[1]) + (chunk[2] + chunk[3]);
#pragma unroll
  for (int lanes = 1; lanes < T::kLanesPerRow; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  return sum;
}

/// The exchange between the lanes of a row, in shared memory of the warp.
template <class T>
class CodeExchange {
 public:
  static constexpr int kShare = T::kLanesPerRow * LaneCodes<T>::kWords;  ///< words of four chunks of a row: 4, or 8
  /// Words from row to row: padded, so that lanes that write together meet in no bank.
  static constexpr int kRow = LaneCodes<T>::kShares * kShare + (T::kWidth == 1 ? 8 : 4);
  static constexpr int kWords = T::kRows * kRow;

  __device__ CodeExchange(std::uint32_t* words, int lane)
      : to_(words + lane / T::kLanesPerRow * kRow + lane % T::kLanesPerRow * LaneCodes<T>::kWords),
        from_(words + lane / T::kLanesPerRow * kRow + lane % T::kLanesPerRow * kShare),
        words_(words),
        lane_(lane) {}

  /// Gives lane m of a row chunks 4 m .. 4 m + 3: byte k of w[p] holds codes 2 p and 2 p + 1 of the k-th of them.
  template <int Bits>
  __device__ __forceinline__ void gather(const LaneCodes<T>& codes, std::uint32_t (&w)[4]) const {
#pragma unroll
    for (int s = 0; s < LaneCodes<T>::kShares; ++s) {
      if constexpr (LaneCodes<T>::kWords == 2) {
        *reinterpret_cast<uint2*>(to_ + s * kShare) = make_uint2(codes.word[s][0], codes.word[s][1]);
      } else {
        to_[s * kShare] = codes.word[s][0];
      }
    }
    __syncwarp();
    if constexpr (T::kWidth == 1) {
      const uint4 low = *reinterpret_cast<const uint4*>(from_), high = *reinterpret_cast<const uint4*>(from_ + 4);
      w[0] = low.x + (low.y << Bits), w[1] = low.z + (low.w << Bits);
      w[2] = high.x + (high.y << Bits), w[3] = high.z + (high.w << Bits);
    } else {
      const uint4 all = *reinterpret_cast<const uint4*>(from_);
      w[0] = all.x, w[1] = all.y, w[2] = all.z, w[3] = all.w;
    }
  }

  /// Writes the codes of the first `rows` rows of tile `tile`.
  template <int Bits>
  __device__ __forceinline__ void write(const std::uint32_t (&w)[4], std::uint8_t* to, int tile, int rows) const {
    std::uint32_t out[Bits];
    pack_four_chunks<Bits>(w, out);
    store<Bits>(out, to + static_cast<std::int64_t>(tile) * (128 * Bits), rows);
  }

 private:
  template <int Bits>
  __device__ __forceinline__ void store(const std::uint32_t (&out)[Bits], std::uint8_t* to, int rows) const {
    if constexpr (Bits == 3) {
      if (rows == T::kRows) {  // three words a lane, once more through shared memory, leave as 16 bytes of 24 lanes
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 3; ++i) words_[3 * lane_ + i] = out[i];
        __syncwarp();
        if (lane_ < 24) reinterpret_cast<uint4*>(to)[lane_] = reinterpret_cast<const uint4*>(words_)[lane_];
        return;
      }
    }
    if (lane_ >= rows * T::kLanesPerRow) return;
    if constexpr (Bits == 4) {
      reinterpret_cast<uint4*>(to)[lane_] = make_uint4(out[0], out[1], out[2], out[3]);
    } else if constexpr (Bits == 2) {
      reinterpret_cast<uint2*>(to)[lane_] = make_uint2(out[0], out[1]);
    } else {
#pragma unroll
      for (int i = 0; i < 3; ++i) reinterpret_cast<std::uint32_t*>(to)[3 * lane_ + i] = out[i];
    }
  }

  std::uint32_t* to_;
  const std::uint32_t* from_;
  std::uint32_t* words_;
  int lane_;
};

}  // namespace tq::cuda
