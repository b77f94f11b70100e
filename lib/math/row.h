// One row forward and back: the only place where the steps of TurboQuant_mse (Algorithm 1 of arXiv 2504.19874) are put
// together. Backends schedule these over rows and do no arithmetic of their own.
#pragma once

#include <type_traits>

#include "lib/math/convert.h"
#include "lib/math/lookup.h"
#include "lib/math/norm.h"
#include "lib/math/pack.h"
#include "lib/math/rotation.h"

namespace tq::math {

/// How norms are stored.
struct NormRule {
  NormMode mode;
  bool f16;  ///< rounded to F16, else float32
  /// The row is divided by its norm before it is rotated, and not after: one rounding more a value, which changes 3 codes of
  /// a million. It is the order of the published encoder of native TQ3, whose bytes tq promises there.
  bool divide_first = false;
};

inline namespace TQ_TARGET {

template <class V>
struct EncodedRow {
  V norm;            ///< as stored: rounded to its type
  IntOf<V> refused;  ///< set where the row cannot be coded: NaN, infinity, or a norm that its type cannot hold
};

/// The norm as its type stores it; a lane whose norm overflows it, or would become 0 in it, is refused.
template <class V>
TQ_HD EncodedRow<V> store_norm(V norm, IntOf<V> refused, bool f16) {
  if (f16) {
    const V zero = splat<V>(0.0f);
    const V stored = float_from_f16(f16_from_float(norm));
    refused |= mask_greater(norm, zero) & ~mask_greater(stored, zero);
    norm = stored;
  }
  return {norm, refused | ~mask_greater(splat<V>(__builtin_inff()), norm)};
}

/// mix() of x / norm.length. `brief`: the values have at most 8 significant bits.
template <class V>
TQ_HD void mix_divided(V* x, const RotationView& rotation, const RowNorm<V>& norm, [[maybe_unused]] bool brief, V* scratch) {
  const V length = norm.length;
  if constexpr (kCanFuse<V>) {
    if (divides_quickly(x, rotation.dim, length, norm.least)) {
      const V reciprocal = splat<V>(1.0f) / length;
      if (brief && !any(~divides_briefly(length))) {
        const auto quotient = [x, by = BriefDivision<V>(length, reciprocal)](int i) { return by(x[i]); };
        return mix(x, rotation, rotation.signs1, false, scratch, quotient);
      }
      return mix(x, rotation, rotation.signs1, false, scratch, QuickDivision<V>{x, length, reciprocal});
    }
  }
  divide_row(x, rotation.dim, length);
  mix(x, rotation, rotation.signs1, false, scratch);
}

/// Calls f(words of the group, place in the group, element) for element 0..dim-1. 32 codes fill Bits words exactly, so in
/// whole groups every shift is a constant where the loop is unrolled: it is in the wide targets, which are made to be fast,
/// and not in the others, which would take minutes to compile.
template <int Bits, class I, class F>
TQ_HD void for_each_code(I* words, int dim, F&& f) {
  int start = 0;
  if constexpr (kLanes<I> >= 8) {
    for (; start + 32 <= dim; start += 32, words += Bits) {
      std::remove_const_t<I> group[Bits];
      for (int w = 0; w < Bits; ++w) group[w] = words[w];
      TQ_UNROLL(32)
      for (int i = 0; i < 32; ++i) f(group, i, start + i);
      if constexpr (!std::is_const_v<I>) {
        for (int w = 0; w < Bits; ++w) words[w] = group[w];
      }
    }
  }
  for (int i = 0; start + i < dim; ++i) f(words, i, start + i);
}

/// 1/|c|: the factor on a row's norm that keeps it, for the squares of its levels c.
template <class V>
TQ_HD V corrected_factor(const V* squares, int dim, V* scratch) {
  const V energy = sum_terms(squares, dim, scratch, [](V square, int) { return square; });
  const V one = splat<V>(1.0f);
  return select(mask_greater(energy, splat<V>(0.0f)), one / square_root(energy), one);
}

/// <y,c>/<c,c> (0 where that is negative): the least-squares factor for levels c, all of it pairwise sums over the row.
template <int Bits, class V>
TQ_HD_CALL V least_squares_factor(const V* x, const RotationView& rotation, V scale, const IntOf<V>* words,
                                  const LevelTable<Bits, V>& level_of, V* scratch) {
  V* squares = scratch;
  V* products = scratch + rotation.dim;
  for (int i = 0; i < rotation.dim; ++i) {
    const V level = level_of(get_code<Bits>(words, i));
    squares[i] = level * level;
    products[i] = finish_rotation(x, i, rotation, scale) * level;
  }
  const V energy = sum_pairwise(squares, rotation.dim);
  const V product = sum_pairwise(products, rotation.dim);
  const V zero = splat<V>(0.0f);
  return select(mask_greater(product, zero), product / energy, zero);
}

/// x [dim] -> words [row_words(dim, Bits)], norm. x is overwritten. scratch: kRotationScratch values. `brief`: x has at most 8 significant
/// bits, as BF16 has; that changes no bit of the result, and a division is then shorter.
template <int Bits, class V>
TQ_HD EncodedRow<V> encode_row(V* x, const RotationView& rotation, const CodeFinder<Bits, V>& find_code,
                               const LevelTable<Bits, V>& level_of, NormRule rule, IntOf<V>* words, V* scratch,
                               [[maybe_unused]] bool brief = false) {
  using I = IntOf<V>;
  const int dim = rotation.dim;
  const bool wants_least = kCanFuse<V> && rule.divide_first;  // by mix_divided()
  const RowSurvey<V> survey =
      wants_least ? survey_row(x, dim, scratch) : RowSurvey<V>{sum_squares(x, dim, scratch), splat<V>(0.0f)};
  RowNorm<V> norm = row_norm(x, dim, survey, rotation.scale, scratch);
  if (rule.divide_first) {
    norm.scale = splat<V>(rotation.scale);
    mix_divided(x, rotation, norm, brief, scratch);
  } else {
    mix(x, rotation, rotation.signs1, false, scratch);
  }
  for (int w = 0; w < row_words(dim, Bits); ++w) words[w] = splat_int<I>(0);
  const auto find = [&](I* group, int place, int i) {
    const I code = find_code(finish_rotation(x, i, rotation, norm.scale));
    put_code<Bits>(group, place, code);
    return code;
  };
  if (rule.mode == NormMode::kCorrected) {  // a loop of its own: a branch in the other would cost as much as a comparison
    for_each_code<Bits>(words, dim, [&](I* group, int place, int i) { x[i] = level_of.square(find(group, place, i)); });
    return store_norm(norm.norm * corrected_factor(x, dim, scratch), norm.refused, rule.f16);
  }
  for_each_code<Bits>(words, dim, find);
  if (rule.mode == NormMode::kRaw) return store_norm(norm.norm, norm.refused, rule.f16);
  const V factor = least_squares_factor<Bits>(x, rotation, norm.scale, words, level_of, scratch);
  return store_norm(norm.norm * factor, norm.refused, rule.f16);
}

/// words, norm -> x [dim], the reconstructed row. A row of norm 0 gives zeros without a sign.
template <int Bits, class V>
TQ_HD void decode_row(const IntOf<V>* words, V norm, const RotationView& rotation, const LevelTable<Bits, V>& level_of,
                      V* x, V* scratch) {
  using I = IntOf<V>;
  const int dim = rotation.dim;
  for_each_code<Bits>(words, dim,
                      [&](const I* group, int place, int i) { x[i] = level_of(get_code<Bits>(group, place)); });
  mix(x, rotation, rotation.signs2, true, scratch);
  const V zero = splat<V>(0.0f);
  const V scale = norm * splat<V>(rotation.scale);
  const I not_zero = mask_greater(norm, zero);
  if (any(~not_zero)) {
    for (int i = 0; i < dim; ++i) x[i] = select(not_zero, finish_rotation_back(x, i, rotation, scale), zero);
  } else {
    for (int i = 0; i < dim; ++i) x[i] = finish_rotation_back(x, i, rotation, scale);
  }
}

}  // namespace TQ_TARGET
}  // namespace tq::math
