// The code of a value without a search. fma(y, sign, magic) rounds y to a bin of width 2^-k, whose number is then in the low bits; a
// table in shared memory holds, for each bin, the codes below it and the one edge in it. Rounding is monotone, so this is exact for
// any codebook whose edges lie in different bins. Included by .cu files only.
//
// Codes are pushed into a word, the lowest last. The sign of edge - y is what a code adds to the codes below, and a funnel shift by the
// bits of a code brings it along with the exponent's highest bits. These are 0, for signs and edges are so small: `unit` below. Shift,
// sign and codes below are then one instruction; the word has Bits - 1 bits of 0 below its codes. What needs each code on its own
// takes a shift of 1 and a unit of 1.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/gpu_warp.h"
#include "lib/codebook.h"
#include "lib/math/norm.h"

namespace tq::cuda {

inline constexpr int kMaxBins = 264;
inline constexpr int kMostTileCodes = 16;

/// A codebook of at most four bits with the edges as find_code() compares them: 200 bytes, of which a block reads what it needs. (Bins by
/// value would be 2 KB, and every multiprocessor would wait for them once a launch.)
struct TileCodebook {
  float levels[kMostTileCodes];
  float edges[kMostTileCodes];
  float limits[kMostTileCodes];  ///< edges of the values that are looked up (those that a scale makes levels, or levels), in `unit`
  float unit;                    ///< a power of two: the magnitude of the signs
  float magic;                   ///< 1.5 2^(23 - k) unit: the unit in the last place is 2^-k unit
};

/// The largest float32 v with v * scale <= edge, rounded: v is beyond it where its product is beyond the edge.
inline float limit_of(float edge, float scale) {
  float limit = edge / scale;
  while (limit * scale > edge) limit = std::nextafter(limit, -__builtin_inff());
  for (float next = limit; next * scale <= edge; next = std::nextafter(next, __builtin_inff())) limit = next;
  return limit;
}

/// The shift of push_code() with which codes of `bits` are found: all of them, or 1 where each is asked for on its own.
constexpr int code_shift(NormMode mode, int bits) { return mode == NormMode::kLeastSquares ? 1 : bits; }

/// Above all values that are looked up, in units: the edge of a bin that has none.
inline constexpr float kNoEdge = 32.0f;

/// The largest unit where differences of edges and values, below 2 kNoEdge units, have shift - 1 exponent bits of 0. shift: 1 to 4
constexpr float bin_unit(int shift) {
  return shift == 1 ? 1.0f : shift == 2 ? 0x1p-5f : shift == 3 ? 0x1p-69f : 0x1p-101f;
}

/// Of values that are looked up before they are multiplied with `scale`; 1: levels. They are at most 1.02 / scale in magnitude, and 0 or at
/// least 2^-117 where scale is not 1. False if two edges share a bin of every width, or a level is too small for the kernels' way to a
/// square root, or an edge for the unit.
inline bool make_tile_codebook(const Codebook& codebook, float scale, int shift, TileCodebook& tile) {
  const int edges = (1 << codebook.bits) - 1;
  tile = {};
  tile.unit = bin_unit(shift);
  for (int i = 0; i <= edges; ++i) {
    tile.levels[i] = codebook.levels[i];
    if (tile.levels[i] != 0.0f && !(std::fabs(tile.levels[i]) > 0x1p-40f)) return false;  // energies are 0 or far from it
  }
  for (int i = 0; i < edges; ++i) {
    tile.edges[i] = codebook.edges[i];
    if (!(tile.edges[i] > -1.0f && tile.edges[i] < 1.0f)) return false;
    const float limit = tile.edges[i] == 0.0f ? 0.0f : limit_of(tile.edges[i], scale);  // products with scale do not underflow
    tile.limits[i] = limit * tile.unit + 0.0f;  // a limit of -0 would count a value of 0
    if (tile.limits[i] / tile.unit != limit) return false;
  }
  const int finest = static_cast<int>(std::floor(std::log2(static_cast<float>(kMaxBins / 2 - 1) * scale / 1.02f)));
  for (int k = finest - 3; k <= finest; ++k) {
    tile.magic = std::ldexp(1.5f, 23 - k) * tile.unit;
    bool apart = true;
    for (int i = 0; i + 1 < edges; ++i) apart &= tile.limits[i] + tile.magic < tile.limits[i + 1] + tile.magic;
    if (apart) return true;
  }
  return false;
}

/// The bins in shared memory: a pair a bin, in one access, where few bins are in use (their banks differ), else two arrays.
template <int Bits, int Shift>
struct SharedBins {
  static constexpr bool kPaired = Bits <= 3;
  std::uint32_t words[2 * kMaxBins];

  __device__ void fill(const TileCodebook& codebook, int thread, int threads) {
    for (int bin = thread; bin < kMaxBins; bin += threads) {
      float edge = kNoEdge * codebook.unit;
      std::uint32_t below = 0;
      for (int i = 0; i + 1 < 1 << Bits; ++i) {
        const float limit = codebook.limits[i];
        const int at = __float_as_int(limit + codebook.magic) - __float_as_int(codebook.magic) + kMaxBins / 2;
        below += at < bin ? 1 : 0;
        if (at == bin) edge = limit;
      }
      words[kPaired ? 2 * bin : bin] = __float_as_uint(edge);
      words[kPaired ? 2 * bin + 1 : kMaxBins + bin] = below << (Shift - 1);
    }
  }

  /// Shared address of bin 0, less what the bits of `magic` add to a bin's number. Kept, so that it is not subtracted for every value.
  __device__ std::uint32_t origin(float magic) const {
    return kept(shared_address(words) - (kPaired ? 8u : 4u) * (__float_as_uint(magic) - kMaxBins / 2));
  }
};

/// Shifts `into` and adds the code of (sign / unit) y, times 2^(Shift - 1). sign: +unit or -unit
template <int Bits, int Shift>
__device__ __forceinline__ std::uint32_t push_code(std::uint32_t into, float y, float sign, float magic, std::uint32_t origin) {
  const std::uint32_t bin = __float_as_uint(__fmaf_rn(y, sign, magic));
  float edge;
  std::uint32_t below;
  if constexpr (SharedBins<Bits, Shift>::kPaired) {
    asm("ld.shared.v2.b32 {%0, %1}, [%2];" : "=f"(edge), "=r"(below) : "r"(bin * 8 + origin));
  } else {
    const std::uint32_t address = bin * 4 + origin;
    asm("ld.shared.b32 %0, [%1];" : "=f"(edge) : "r"(address));
    asm("ld.shared.b32 %0, [%1 + %2];" : "=r"(below) : "r"(address), "n"(4 * kMaxBins));
  }
  const float difference = __fmaf_rn(y, -sign, edge);  // negative beyond the edge; +0 at the edge
  return __funnelshift_l(__float_as_uint(difference), into, Shift) + below;
}

}  // namespace tq::cuda
