// The code of a value without a search. fma(y, sign, magic) rounds y to a bin of width 2^-k, whose number is then in the low bits; a
// table in shared memory holds, for each bin, the codes below it and the one edge in it. Rounding is monotone, so this is exact for
// any codebook whose edges lie in different bins. Included by .cu files only.
#pragma once

#include <algorithm>
#include <cstdint>

#include "lib/codebook.h"

namespace tq::cuda {

inline constexpr int kMaxBins = 264;

/// Bins of [-1.02, 1.02]: bin round(y 2^k) + kMaxBins / 2.
struct Bins {
  float edge[kMaxBins];          ///< the edge in the bin, or infinity
  std::int32_t below[kMaxBins];  ///< edges in lower bins
  float magic;                   ///< 1.5 2^(23 - k): the unit in the last place is 2^-k
};

/// False if two edges share a bin of every width.
inline bool make_bins(const Codebook& codebook, Bins& bins) {
  const int edges = (1 << codebook.bits) - 1;
  for (int k = 4; k <= 7; ++k) {
    bins.magic = 0x1.8p23f / static_cast<float>(1 << k);
    std::fill(bins.edge, bins.edge + kMaxBins, __builtin_inff());
    bool apart = true;
    for (int i = 0; i < edges; ++i) {
      const float edge = codebook.edges[i];
      if (!(edge > -1.0f && edge < 1.0f)) return false;
      const int bin = static_cast<int>((edge + bins.magic - bins.magic) * static_cast<float>(1 << k)) + kMaxBins / 2;
      if (bins.edge[bin] < __builtin_inff()) apart = false;
      bins.edge[bin] = edge + 0.0f;  // an edge of -0 would count a value of 0
    }
    if (!apart) continue;
    for (int bin = 0, below = 0; bin < kMaxBins; ++bin) {
      bins.below[bin] = below;
      below += bins.edge[bin] < __builtin_inff() ? 1 : 0;
    }
    return true;
  }
  return false;
}

/// The bins in shared memory: a pair a bin, in one access, where few bins are in use (their banks differ), else two arrays.
template <int Bits>
struct SharedBins {
  static constexpr bool kPaired = Bits <= 3;
  std::uint32_t words[2 * kMaxBins];

  __device__ void fill(const Bins& bins, int thread, int threads) {
    for (int i = thread; i < kMaxBins; i += threads) {
      words[kPaired ? 2 * i : i] = __float_as_uint(bins.edge[i]);
      words[kPaired ? 2 * i + 1 : kMaxBins + i] = static_cast<std::uint32_t>(bins.below[i]);
    }
  }

  /// Shared address of bin 0, less what the bits of `magic` add to a bin's number. In two steps that the compiler cannot take apart, for
  /// then it would subtract for every value.
  __device__ std::uint32_t origin(float magic) const {
    const std::uint32_t sum = static_cast<std::uint32_t>(__cvta_generic_to_shared(words)) -
                              (kPaired ? 8u : 4u) * (__float_as_uint(magic) - kMaxBins / 2);
    std::uint32_t origin;
    asm volatile("mov.b32 %0, %1;" : "=r"(origin) : "r"(sum));
    return origin;
  }
};

/// The code of sign * y.
template <int Bits>
__device__ __forceinline__ std::uint32_t find_code(float y, float sign, float magic, std::uint32_t origin) {
  const std::uint32_t bin = __float_as_uint(__fmaf_rn(y, sign, magic));
  float edge;
  std::uint32_t below;
  if constexpr (SharedBins<Bits>::kPaired) {
    asm("ld.shared.v2.b32 {%0, %1}, [%2];" : "=f"(edge), "=r"(below) : "r"(bin * 8 + origin));
  } else {
    const std::uint32_t address = bin * 4 + origin;
    asm("ld.shared.b32 %0, [%1];" : "=f"(edge) : "r"(address));
    asm("ld.shared.b32 %0, [%1 + %2];" : "=r"(below) : "r"(address), "n"(4 * kMaxBins));
  }
  return below + (__float_as_uint(__fmaf_rn(y, -sign, edge)) >> 31);  // edge - sign * y is negative, or +0 at the edge
}

}  // namespace tq::cuda
