// From the codes that lanes hold by column to the words of the rows. A lane has the codes of its neighbours in every run of its row; the
// lanes of a row exchange them through shared memory; then each lane has the codes of its own run: it sums the energy of their levels
// where the norm needs it, packs and writes them. Included by .cu files only.
#pragma once

#include <cstdint>

#include "kernels/gpu_runs.h"

namespace tq::cuda {

/// The codes of a lane's column: a word for eight neighbours of a run (or four, where it has no more). `Dense`: they follow each other bit by
/// bit; else two a byte.
template <class R, bool Dense>
struct ColumnCodes {
  static constexpr int kWords = R::kWidth > 8 ? R::kWidth / 8 : 1;
  std::uint32_t word[R::kLanes][kWords] = {};

  /// Codes of a run come in descending order.
  template <int Bits>
  __device__ __forceinline__ void push(int q, int j, std::uint32_t code) {
    std::uint32_t& into = word[q][j / 8];
    into = (into << (!Dense && j % 2 == 1 ? 8 - Bits : Bits)) + code;
  }
};

/// Dot product of the four bytes of `bytes` and of `weights`, plus `sum`.
__device__ __forceinline__ std::uint32_t dot_bytes(std::uint32_t bytes, std::uint32_t weights, std::uint32_t sum) {
  return __dp4a(bytes, weights, sum);
}

/// A run's codes, eight a word, two a byte or dense -> its Bits words.
template <int Bits, bool Dense>
__device__ __forceinline__ void pack_run(const std::uint32_t (&w)[4], std::uint32_t (&out)[Bits]) {
  if constexpr (Bits == 4) {
#pragma unroll
    for (int k = 0; k < 4; ++k) out[k] = w[k];
  } else if constexpr (Bits == 3) {
    std::uint32_t eight[4];  // codes: 24 bits
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      eight[k] = Dense ? w[k] : dot_bytes(w[k], 0x00004001u, 0) + (dot_bytes(w[k], 0x40010000u, 0) << 12);
    }
    out[0] = __byte_perm(eight[0], eight[1], 0x4210);
    out[1] = __byte_perm(eight[1], eight[2], 0x5421);
    out[2] = __byte_perm(eight[2], eight[3], 0x6542);
  } else {
#pragma unroll
    for (int k = 0; k < 2; ++k) {  // four bits a byte: two bytes become one
      const std::uint32_t low = w[2 * k] + (w[2 * k] >> 4), high = w[2 * k + 1] + (w[2 * k + 1] >> 4);
      out[k] = __byte_perm(low, high, 0x6420);
    }
  }
}

/// Energies of two levels, by the byte of their codes, in shared memory: several copies, so that fewer lanes meet in a bank.
template <int Bits>
struct PairEnergies {
  static constexpr int kCopies = Bits == 2 ? 32 : Bits == 3 ? 16 : 8;  ///< 2, 4, 8 KB
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

/// <c, c> of a row, as a pairwise tree, from its lanes' runs, two codes a byte.
template <class R, int Bits>
__device__ __forceinline__ float sum_energy(const std::uint32_t (&w)[4], std::uint32_t origin) {
  const auto look_up = [&](int k, int byte) {
    float term;
    asm("ld.shared.f32 %0, [%1];" : "=f"(term) : "r"(dot_bytes(w[k], 4u * PairEnergies<Bits>::kCopies << (8 * byte), origin)));
    return term;
  };
  float eight[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) eight[k] = (look_up(k, 0) + look_up(k, 1)) + (look_up(k, 2) + look_up(k, 3));
  float sum = (eight[0] + eight[1]) + (eight[2] + eight[3]);
#pragma unroll
  for (int lanes = 1; lanes < R::kLanes; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  return sum;
}

/// The exchange between the lanes of a row, in shared memory of the warp: put(), a barrier of the warp, take(), and write(), which has
/// barriers. A run's codes take 16 bytes there, and every eighth run is followed by 16 more: no two lanes of an access meet in a bank.
template <class R, bool Dense>
class CodeExchange {
 public:
  using Codes = ColumnCodes<R, Dense>;
  static constexpr int kWords = 4 * (32 + 4);
  static_assert(!Dense || R::kWidth >= 8);

  __device__ CodeExchange(std::uint32_t* words, int lane) : lane_(lane) {
    const int first = lane / R::kLanes * R::kLanes;
    to_ = reinterpret_cast<std::uint8_t*>(words) + 16 * (first + first / 8) + lane % R::kLanes * (16 / R::kLanes);
    from_ = words + 4 * (lane + lane / 8);
    words_ = words;
    clear();
  }

  /// Codes that can be taken where none were put: what is there else, such as packed words, may lead out of the table of energies.
  __device__ __forceinline__ void clear() const { *reinterpret_cast<uint4*>(words_ + 4 * (lane_ + lane_ / 8)) = make_uint4(0, 0, 0, 0); }

  __device__ __forceinline__ void put(const Codes& codes) const {
#pragma unroll
    for (int q = 0; q < R::kLanes; ++q) {
      if constexpr (R::kWidth == 16) {
        *reinterpret_cast<uint2*>(to_ + 16 * q) = make_uint2(codes.word[q][0], codes.word[q][1]);
      } else if constexpr (R::kWidth == 8) {
        *reinterpret_cast<std::uint32_t*>(to_ + 16 * q) = codes.word[q][0];
      } else {
        *reinterpret_cast<std::uint16_t*>(to_ + 16 * q) = static_cast<std::uint16_t>(codes.word[q][0]);
      }
    }
  }

  /// The codes of a lane's run, eight a word.
  __device__ __forceinline__ void take(std::uint32_t (&w)[4]) const {
    const uint4 all = *reinterpret_cast<const uint4*>(from_);
    w[0] = all.x, w[1] = all.y, w[2] = all.z, w[3] = all.w;
  }

  /// Writes the codes of a tile, if `really`.
  template <int Bits>
  __device__ __forceinline__ void write(const std::uint32_t (&w)[4], std::uint8_t* to, bool really) const {
    std::uint32_t out[Bits];
    pack_run<Bits, Dense>(w, out);
    if constexpr (Bits == 4) {
      if (really) reinterpret_cast<uint4*>(to)[lane_] = make_uint4(out[0], out[1], out[2], out[3]);
    } else if constexpr (Bits == 2) {
      if (really) reinterpret_cast<uint2*>(to)[lane_] = make_uint2(out[0], out[1]);
    } else {  // three words a lane, once more through shared memory, leave as 16 bytes of 24 lanes
      __syncwarp();
#pragma unroll
      for (int i = 0; i < 3; ++i) words_[3 * lane_ + i] = out[i];
      __syncwarp();
      const uint4 four = reinterpret_cast<const uint4*>(words_)[lane_];
      if (really && lane_ < 24) reinterpret_cast<uint4*>(to)[lane_] = four;
    }
  }

 private:
  std::uint32_t* words_;
  int lane_;
  std::uint8_t* to_;
  const std::uint32_t* from_;
};

}  // namespace tq::cuda
