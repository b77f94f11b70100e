// One row forward and back: the only place where the steps of TurboQuant_mse (Algorithm 1 of arXiv 2504.19874) are put
// together. Backends schedule these over rows and do no arithmetic of their own.
#pragma once

#include "lib/math/lookup.h"
#include "lib/math/norm.h"
#include "lib/math/pack.h"
#include "lib/math/rotation.h"

namespace tq::math {
inline namespace TQ_TARGET {

template <class V>
struct EncodedRow {
  V norm;            ///< L2 norm of the row
  IntOf<V> refused;  ///< set where the row cannot be coded: NaN, infinity, or a norm that overflows
};

/// Calls f(words of the group, place in the group, element) for element 0..dim-1. 32 codes fill Bits words exactly, so in
/// whole groups every shift is a constant.
template <int Bits, class I, class F>
TQ_HD void for_each_code(I* words, int dim, F&& f) {
  int start = 0;
  for (; start + 32 <= dim; start += 32, words += Bits) {
    TQ_UNROLL(32)
    for (int i = 0; i < 32; ++i) f(words, i, start + i);
  }
  for (int i = 0; start + i < dim; ++i) f(words, i, start + i);
}

/// x [dim] -> words [row_words(dim, Bits)], norm. x is overwritten. scratch: kRotationScratch values.
template <int Bits, class V>
TQ_HD EncodedRow<V> encode_row(V* x, const RotationView& rotation, const CodeFinder<Bits, V>& find_code, IntOf<V>* words,
                               V* scratch) {
  using I = IntOf<V>;
  const int dim = rotation.dim;
  const RowNorm<V> norm = row_norm(x, dim, rotation.scale, scratch);
  mix(x, rotation, rotation.signs1, false, scratch);
  for (int w = 0; w < row_words(dim, Bits); ++w) words[w] = splat_int<I>(0);
  for_each_code<Bits>(words, dim, [&](I* group, int place, int i) {
    put_code<Bits>(group, place, find_code(finish_rotation(x, i, rotation, norm.scale)));
  });
  return {norm.norm, norm.refused};
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
