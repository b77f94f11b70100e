// QJL, the sketch of the residual of TurboQuant_prod (Algorithm 2 of arXiv 2504.19874): r = x - x_hat, its norm, and the
// signs of S r with S [dim][dim] of independent standard normals. It makes inner products unbiased:
//   <q, x> ~ <q, x_hat> + sqrt(pi/2)/dim |r| <S q, sign(S r)>,
// which is <q, x_hat + sqrt(pi/2)/dim |r| S^T sign(S r)>: so a decoder may add the sketch to the row.
#pragma once

#include "lib/math/row.h"

namespace tq::math {
inline namespace TQ_TARGET {

/// sqrt(pi/2) / dim, rounded once to float32. For the host: kernels are given the value.
inline float sketch_constant(int dim) { return static_cast<float>(1.2533141373155002512 / dim); }

/// x, x_hat [dim] -> signs [row_words(dim, 1)], bit i set where (S r)_i > 0; the norm of r. x is overwritten with r (times
/// a power of two for extreme rows). scratch: kRotationScratch values.
template <class V>
TQ_HD_CALL EncodedRow<V> sketch_row(V* x, const V* x_hat, const float* s, int dim, bool f16, IntOf<V>* signs, V* scratch) {
  using I = IntOf<V>;
  for (int i = 0; i < dim; ++i) x[i] = x[i] - x_hat[i];
  const RowNorm<V> norm = row_norm(x, dim, 1.0f, scratch);
  for (int w = 0; w < row_words(dim, 1); ++w) signs[w] = splat_int<I>(0);
  for (int i = 0; i < dim; ++i) {
    for (int j = 0; j < dim; ++j) scratch[j] = x[j] * splat<V>(s[i * dim + j]);
    put_code<1>(signs, i, mask_greater(sum_pairwise(scratch, dim), splat<V>(0.0f)) & 1);
  }
  return store_norm(norm.norm, norm.refused, f16);
}

/// x [dim] += constant * residual_norm * (S^T z), z_i = +1 where bit i of signs is set, else -1; constant =
/// sketch_constant(dim). scratch: kRotationScratch values.
template <class V>
TQ_HD_CALL void add_sketch_row(V* x, const IntOf<V>* signs, V residual_norm, const float* s, int dim, float constant,
                               V* scratch) {
  using I = IntOf<V>;
  const V scale = residual_norm * splat<V>(constant);
  for (int j = 0; j < dim; ++j) {
    for (int i = 0; i < dim; ++i) {
      const I minus = (get_code<1>(signs, i) - 1) & splat_int<I>(static_cast<std::int32_t>(0x80000000u));
      scratch[i] = bits_as<V>(bits_as<I>(splat<V>(s[i * dim + j])) ^ minus);
    }
    x[j] = x[j] + sum_pairwise(scratch, dim) * scale;
  }
}

}  // namespace TQ_TARGET
}  // namespace tq::math
