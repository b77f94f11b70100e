// From the codes that lanes hold by column to the words of the rows. A lane has the codes of its neighbours in every run of its row; the
// lanes of a row exchange them through shared memory; then each lane has the codes of its own run: it sums the energy of their levels
// where the norm needs it, packs and writes them. Included by .cu files only.
#pragma once

#include <cstdint>

#include "kernels/gpu_runs.h"
#include "kernels/gpu_warp.h"

namespace tq::cuda {

/// Bits of 0 below the codes of a word: what push_code() leaves there. Eight codes of 4 bits have no room for them.
__host__ __device__ constexpr int lead_bits(int bits) { return bits == 4 ? 0 : bits - 1; }

/// The codes of a lane's column: a word for eight neighbours of a run (or four, where it has no more), lead_bits() of 0 below them.
template <class R>
struct ColumnCodes {
  static constexpr int kWords = R::kWidth > 8 ? R::kWidth / 8 : 1;
  std::uint32_t word[R::kLanes][kWords] = {};
};

/// Words of eight codes -> the Bits words of a run.
template <int Bits>
__device__ __forceinline__ void pack_run(const std::uint32_t (&w)[4], std::uint32_t (&out)[Bits]) {
  if constexpr (Bits == 4) {
#pragma unroll
    for (int k = 0; k < 4; ++k) out[k] = w[k];
  } else if constexpr (Bits == 3) {  // 24 bits each, from bit 2 on
    out[0] = (w[0] >> 2) + (w[1] << 22);
    out[1] = (w[1] >> 10) + (w[2] << 14);
    out[2] = (w[2] >> 18) + (w[3] << 6);
  } else {
#pragma unroll
    for (int k = 0; k < 2; ++k) out[k] = (w[2 * k] >> 1) + (w[2 * k + 1] << 15);
  }
}

/// Energies of four levels (of 4 bits: of two), by their codes, in shared memory: several copies where there is room, so that fewer lanes
/// meet in a bank.
template <int Bits>
struct LevelEnergies {
  static constexpr int kCopies = Bits == 3 ? 1 : 8;
  static constexpr int kHalfBits = Bits == 4 ? 4 : 2 * Bits;  ///< of half of the codes
  alignas(16) float terms[kCopies << (2 * kHalfBits)];        ///< 8, 16, 8 KB

  /// All threads of the block call it, a multiple of 128.
  __device__ void fill(const float* levels, int thread, int threads) {
    constexpr int kHalves = 1 << kHalfBits, kLow = kCopies << kHalfBits;
    const auto half = [&](int codes) {
      const float first = levels[codes & ((1 << Bits) - 1)], second = levels[codes >> Bits & ((1 << Bits) - 1)];
      return Bits == 4 ? first * first : first * first + second * second;
    };
    const float low = half(thread / kCopies % kHalves), near = half(thread % 32), far = half(thread % 32 + 32);
#pragma unroll 8
    for (int high = thread / kLow; high < kHalves; high += threads / kLow) {
      terms[high * kLow + thread % kLow] = low + __shfl_sync(0xffffffffu, high < 32 ? near : far, high % 32);
    }
  }

  /// Shared address of a lane's copy.
  __device__ std::uint32_t origin(int lane) const { return kept(shared_address(terms + lane % kCopies)); }

  /// Of a word of eight codes, as a pairwise tree.
  static __device__ __forceinline__ float sum(std::uint32_t codes, std::uint32_t origin) {
    const auto look_up = [](std::uint32_t address) {
      float term;
      asm("ld.shared.f32 %0, [%1];" : "=f"(term) : "r"(address));
      return term;
    };
    if constexpr (Bits == 4) {
      const auto pair = [&](int byte) { return look_up(__dp4a(codes, 4u * kCopies << (8 * byte), origin)); };
      return (pair(0) + pair(1)) + (pair(2) + pair(3));
    } else {
      constexpr std::uint32_t kFour = ((1u << (4 * Bits)) - 1) << lead_bits(Bits), kEntry = 4 * kCopies >> lead_bits(Bits);
      return look_up(origin + (codes & kFour) * kEntry) + look_up(origin + (codes >> (4 * Bits) & kFour) * kEntry);
    }
  }
};

/// <c, c> of a row, as a pairwise tree, from its lanes' runs. origin: LevelEnergies::origin()
template <class R, int Bits>
__device__ __forceinline__ float sum_energy(const std::uint32_t (&w)[4], std::uint32_t origin) {
  using Energies = LevelEnergies<Bits>;
  float sum = (Energies::sum(w[0], origin) + Energies::sum(w[1], origin)) + (Energies::sum(w[2], origin) + Energies::sum(w[3], origin));
#pragma unroll
  for (int lanes = 1; lanes < R::kLanes; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  return sum;
}

/// The exchange between the lanes of a row, in shared memory of the warp: put(), a barrier of the warp, take(), write(), and a barrier
/// before the next put(). A run's codes take 16 bytes there, and every eighth run is followed by 16
/// more: no two lanes of an access meet in a bank.
template <class R, int Bits>
class CodeExchange {
 public:
  static constexpr int kWords = 4 * (32 + 4);

  __device__ CodeExchange(void* words, int lane) : words_(static_cast<std::uint32_t*>(words)), lane_(lane) {
    const int first = lane / R::kLanes * R::kLanes;
    to_ = static_cast<std::uint8_t*>(words) + 16 * (first + first / 8) + lane % R::kLanes * (16 / R::kLanes);
    from_ = words_ + 4 * (lane + lane / 8);
  }

  __device__ __forceinline__ void put(const ColumnCodes<R>& codes) const {
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

  /// The codes of a lane's run, eight a word, lead_bits() of 0 below them.
  __device__ __forceinline__ void take(std::uint32_t (&w)[4]) const {
    const uint4 all = *reinterpret_cast<const uint4*>(from_);
    w[0] = all.x, w[1] = all.y, w[2] = all.z, w[3] = all.w;
    if constexpr (R::kWidth == 4 && Bits < 4) {  // four codes and four, 16 bits apart, come together
      constexpr std::uint32_t kFour = ((1u << (4 * Bits)) - 1) << lead_bits(Bits);
#pragma unroll
      for (int k = 0; k < 4; ++k) w[k] = (w[k] & kFour) | (w[k] >> (16 - 4 * Bits) & kFour << (4 * Bits));
    }
  }

  /// Writes the codes of a tile, if `really`. to: a multiple of 8, and of 16 but for rows of 64 elements at 3 bits
  __device__ __forceinline__ void write(const std::uint32_t (&w)[4], std::uint8_t* to, bool really) const {
    std::uint32_t out[Bits];
    pack_run<Bits>(w, out);
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
      if (R::kDim == 64 && reinterpret_cast<std::uintptr_t>(to) % 16 != 0) {  // a launch's last rows
        if (really && lane_ < 24) {
          reinterpret_cast<uint2*>(to)[2 * lane_] = make_uint2(four.x, four.y);
          reinterpret_cast<uint2*>(to)[2 * lane_ + 1] = make_uint2(four.z, four.w);
        }
      } else if (really && lane_ < 24) {
        reinterpret_cast<uint4*>(to)[lane_] = four;
      }
    }
  }

 private:
  std::uint32_t* words_;
  int lane_;
  std::uint8_t* to_;
  const std::uint32_t* from_;
};

}  // namespace tq::cuda
