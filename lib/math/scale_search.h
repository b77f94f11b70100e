// Better codes for the same file and the same decoders: a row is coded at several scales, and the codes are kept that lie
// nearest to it once their norm is the least-squares one. For a given factor t on the levels c the nearest codes of y are
// those of y / t, so what is searched is one number a row, and codes that no scale gives are never better.
//
// A loader may decode a row, round it to BF16 and quantize it again: it divides by the norm of what it decoded, so it
// looks up c / |c|. Scales are therefore accepted only where c / |c| lies in the cells of c, 0.5 % away from each edge.
// Which |c| have that property depends on the codebook alone, not on the row.
#pragma once

#include "lib/math/row.h"

namespace tq::math {

/// Levels of effort: 0 is the nearest level, and 1..3 search.
inline constexpr int kMaxEffort = 3;
/// The scales that are tried: 1 + k / 80, for k from -reach to reach in steps of stride.
inline constexpr float kScaleStep = 0.0125f;
inline constexpr int kMostReach = 16;
/// Distance that a level of c / |c| keeps from the edges of its cell, as a share of the edge.
inline constexpr float kEdgeMargin = 0.005f;

/// What is searched, and which codes are accepted. 16 bytes, goes to a kernel by value.
struct ScaleSearch {
  std::int32_t stride;
  std::int32_t reach;
  float least_energy;  ///< accepted: least_energy <= <c, c> <= most_energy
  float most_energy;
};
static_assert(sizeof(ScaleSearch) == 16);

inline namespace TQ_TARGET {

/// effort 1: 5 scales, .9 to 1.1; 2: 17, .8 to 1.2; 3: 33 in the same range. Each holds all scales of the one before.
TQ_HD ScaleSearch make_scale_search(const Codebook& codebook, int effort) {
  ScaleSearch search{effort == 1 ? 4 : effort == 2 ? 2 : 1, effort == 1 ? kMostReach / 2 : kMostReach, 0.0f, __builtin_inff()};
  const int codes = 1 << codebook.bits;
  for (int edge = 0; edge + 1 < codes; ++edge) {
    for (int code = edge; code <= edge + 1; ++code) {
      const float level = codebook.levels[code];
      const float ratio = codebook.edges[edge] / level;
      if (!(ratio > 0)) continue;  // zero lies between level and edge: no scale takes one past the other
      const float beyond = 1.0f / (ratio * (ratio < 1 ? 1 + kEdgeMargin : 1 - kEdgeMargin));  // limit of |c|
      const float energy = beyond * beyond;
      if (ratio < 1) {
        search.most_energy = energy < search.most_energy ? energy : search.most_energy;
      } else {
        search.least_energy = energy > search.least_energy ? energy : search.least_energy;
      }
    }
  }
  return search;
}

/// Of the levels c of a row's codes: <y, c> and <c, c>.
template <class V>
struct LevelSums {
  V product;
  V energy;
};

/// The sums for the codes of scale * y, as pairwise trees: blocks of 8 first, which are its three lowest levels.
/// scratch: dim values.
template <int Bits, class V>
TQ_HD LevelSums<V> sum_levels(const V* y, int dim, V scale, const CodeFinder<Bits, V>& find_code,
                              const LevelTable<Bits, V>& level_of, V* scratch) {
  const int blocks = (dim + 7) / 8;
  V* products = scratch;
  V* energies = scratch + blocks;
  for (int block = 0; block < blocks; ++block) {
    const V* values = y + 8 * block;
    const int count = dim - 8 * block;
    if (count >= 8) {
      V p[8];
      V e[8];
      TQ_UNROLL(8)
      for (int j = 0; j < 8; ++j) {
        const V level = level_of(find_code(values[j] * scale));
        p[j] = values[j] * level;
        e[j] = level * level;
      }
      products[block] = ((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7]));
      energies[block] = ((e[0] + e[1]) + (e[2] + e[3])) + ((e[4] + e[5]) + (e[6] + e[7]));
      continue;
    }
    V p[8] = {};
    V e[8] = {};
    for (int j = 0; j < count; ++j) {
      const V level = level_of(find_code(values[j] * scale));
      p[j] = values[j] * level;
      e[j] = level * level;
    }
    products[block] = sum_pairwise(p, count);
    energies[block] = sum_pairwise(e, count);
  }
  return {sum_pairwise(products, blocks), sum_pairwise(energies, blocks)};
}

/// What a search has found so far, in each lane.
template <class V>
struct BestScale {
  V scale;
  V gain;  ///< <y, c>^2 / <c, c>: how far the squared error lies below |y|^2; 0: no scale was accepted
  LevelSums<V> sums;

  /// Takes `other` where it is accepted and better.
  TQ_HD void offer(const LevelSums<V>& other, V other_scale, IntOf<V> accepted) {
    const V other_gain = other.product * other.product / other.energy;
    const IntOf<V> better =
        accepted & mask_greater(other.product, splat<V>(0.0f)) & mask_greater(other_gain, gain);
    scale = select(better, other_scale, scale);
    gain = select(better, other_gain, gain);
    sums.product = select(better, other.product, sums.product);
    sums.energy = select(better, other.energy, sums.energy);
  }
};

/// Set where c / |c| lies within the cells of c = codes of scale * y, with the margin.
template <int Bits, class V>
TQ_HD IntOf<V> mask_stable(const V* y, int dim, V scale, V energy, const CodeFinder<Bits, V>& find_code,
                           const LevelTable<Bits, V>& level_of) {
  using I = IntOf<V>;
  const V inward = splat<V>(1.0f / (1 + kEdgeMargin));
  const V outward = splat<V>(1.0f / (1 - kEdgeMargin));
  const V factor = splat<V>(1.0f) / square_root(energy);
  I moved = splat_int<I>(0);
  for (int i = 0; i < dim; ++i) {
    const I code = find_code(y[i] * scale);
    const V value = level_of(code) * factor;
    moved |= (find_code(value * inward) ^ code) | (find_code(value * outward) ^ code);
  }
  return ~(mask_greater_int(moved, splat_int<I>(0)));
}

/// For the rare rows whose codes lie outside the limits of `search` at each of its scales: all scales of effort 3, each
/// judged by the codes that this row has. Where none is accepted here either, the codes of scale 1 stay.
template <int Bits, class V>
TQ_HD_CALL void search_unusual(const V* y, int dim, const CodeFinder<Bits, V>& find_code,
                               const LevelTable<Bits, V>& level_of, V* scratch, BestScale<V>& best) {
  const IntOf<V> missing = ~mask_greater(best.gain, splat<V>(0.0f));
  for (int k = -kMostReach; k <= kMostReach; ++k) {
    const V scale = splat<V>(1.0f + static_cast<float>(k) * kScaleStep);
    const LevelSums<V> sums = sum_levels<Bits>(y, dim, scale, find_code, level_of, scratch);
    best.offer(sums, scale, missing & mask_stable<Bits>(y, dim, scale, sums.energy, find_code, level_of));
  }
}

/// As encode_row(), with the codes of the best scale that is accepted (of equals the one tried first: 1, then ascending)
/// and the least-squares norm.
template <int Bits, class V>
TQ_HD EncodedRow<V> encode_row_searched(V* x, const RotationView& rotation, const CodeFinder<Bits, V>& find_code,
                                        const LevelTable<Bits, V>& level_of, const ScaleSearch& search, bool f16_norm,
                                        IntOf<V>* words, V* scratch) {
  using I = IntOf<V>;
  const int dim = rotation.dim;
  const RowNorm<V> norm = row_norm(x, dim, rotation.scale, scratch);
  mix(x, rotation, rotation.signs1, false, scratch);
  for (int i = 0; i < dim; ++i) x[i] = finish_rotation(x, i, rotation, norm.scale);

  const V zero = splat<V>(0.0f);
  const V one = splat<V>(1.0f);
  BestScale<V> best{one, zero, sum_levels<Bits>(x, dim, one, find_code, level_of, scratch)};
  const auto offer = [&](const LevelSums<V>& sums, V scale) {
    best.offer(sums, scale, ~mask_greater(splat<V>(search.least_energy), sums.energy) &
                                ~mask_greater(sums.energy, splat<V>(search.most_energy)));
  };
  offer(best.sums, one);
  for (int k = -search.reach; k <= search.reach; k += search.stride) {
    if (k == 0) continue;
    const V scale = splat<V>(1.0f + static_cast<float>(k) * kScaleStep);
    offer(sum_levels<Bits>(x, dim, scale, find_code, level_of, scratch), scale);
  }
  if (any(~mask_greater(best.gain, zero))) search_unusual<Bits>(x, dim, find_code, level_of, scratch, best);

  for (int w = 0; w < row_words(dim, Bits); ++w) words[w] = splat_int<I>(0);
  for_each_code<Bits>(words, dim, [&](I* group, int place, int i) {
    put_code<Bits>(group, place, find_code(x[i] * best.scale));
  });
  const V factor = select(mask_greater(best.sums.product, zero), best.sums.product / best.sums.energy, zero);
  return store_norm(norm.norm * factor, norm.refused, f16_norm);
}

}  // namespace TQ_TARGET
}  // namespace tq::math
