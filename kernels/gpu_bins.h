// The code of a value without a search. fma(y, sign, magic) rounds y to a bin of width 2^-k, whose number is then in the low bits; a
// table in shared memory holds, for each bin, the codes below it and the one edge in it. Rounding is monotone, so this is exact for
// any codebook whose edges lie in different bins. Included by .cu files only.
#pragma once

#include <cmath>
#include <cstdint>

#include "lib/codebook.h"

namespace tq::cuda {

inline constexpr int kMaxBins = 264;
inline constexpr int kMostTileCodes = 16;

/// A codebook of at most four bits with the edges as find_code() compares them: 200 bytes, of which a block reads what it needs. (Bins by
/// value would be 2 KB, and every multiprocessor would wait for them once a launch.)
struct TileCodebook {
  float levels[kMostTileCodes];
  float edges[kMostTileCodes];
  float limits[kMostTileCodes];  ///< edges of the values that are looked up: those that a scale makes levels, or levels
  float magic;                   ///< 1.5 2^(23 - k): the unit in the last place is 2^-k

  int bits;
};

/// The largest float32 v with v * scale <= edge, rounded: v is beyond it where its product is beyond the edge.
inline float limit_of(float edge, float scale) {
  float limit = edge / scale;
  while (limit * scale > edge) limit = std::nextafter(limit, -__builtin_inff());
  for (float next = limit; next * scale <= edge; next = std::nextafter(next, __builtin_inff())) limit = next;
  return limit;
}

/// Of values that are looked up before they are multiplied with `scale`; 1: levels. They are at most 1.02 / scale in magnitude. False if
/// two edges share a bin of every width, or a level is too small for the kernels' way to a square root.
inline bool make_tile_codebook(const Codebook& codebook, float scale, TileCodebook& tile) {
  const int edges = (1 << codebook.bits) - 1;
  tile = {};
  tile.bits = codebook.bits;
  for (int i = 0; i <= edges; ++i) {
    tile.levels[i] = codebook.levels[i];
    if (tile.levels[i] != 0.0f && !(std::fabs(tile.levels[i]) > 0x1p-40f)) return false;  // energies are 0 or far from it
  }
  for (int i = 0; i < edges; ++i) {
    tile.edges[i] = codebook.edges[i];
    if (!(tile.edges[i] > -1.0f && tile.edges[i] < 1.0f)) return false;
    tile.limits[i] = limit_of(tile.edges[i], scale) + 0.0f;  // a limit of -0 would count a value of 0
  }
  const int finest = static_cast<int>(std::floor(std::log2(static_cast<float>(kMaxBins / 2 - 1) * scale / 1.02f)));
  for (int k = finest - 3; k <= finest; ++k) {
    tile.magic = std::ldexp(1.5f, 23 - k);
    bool apart = true;
    for (int i = 0; i + 1 < edges; ++i) apart &= tile.limits[i] + tile.magic < tile.limits[i + 1] + tile.magic;
    if (apart) return true;
  }
  return false;
}

/// The bins in shared memory: a pair a bin, in one access, where few bins are in use (their banks differ), else two arrays.
template <int Bits>
struct SharedBins {
  static constexpr bool kPaired = Bits <= 3;
  std::uint32_t words[2 * kMaxBins];

  __device__ void fill(const TileCodebook& codebook, int thread, int threads) {
    for (int bin = thread; bin < kMaxBins; bin += threads) {
      float edge = __int_as_float(0x7f800000);
      std::uint32_t below = 0;
      for (int i = 0; i + 1 < 1 << Bits; ++i) {
        const float limit = codebook.limits[i];
        const int at = __float_as_int(limit + codebook.magic) - __float_as_int(codebook.magic) + kMaxBins / 2;
        below += at < bin ? 1 : 0;
        if (at == bin) edge = limit;
      }
      words[kPaired ? 2 * bin : bin] = __float_as_uint(edge);
      words[kPaired ? 2 * bin + 1 : kMaxBins + bin] = below;
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
