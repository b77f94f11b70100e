// The rotation of a row and its inverse, the transpose. y = s2 * H (s1 * x) for rht2, y = H (s1 * x) for rht1,
// y = P x for qr. H is H_m (x) H_2^k in Kronecker order with m slow: a row is m blocks of 2^k elements.
// Nothing is normalized here: the caller multiplies once, by `scale` (1/sqrt(dim) for H) together with the row's norm.
#pragma once

#include "lib/math/norm.h"

namespace tq::math {

enum class Mixing : std::int32_t {
  kNone,      ///< identity
  kHadamard,  ///< H_m (x) H_2^k; m = 1: Sylvester
  kDense,     ///< any orthogonal matrix
};

/// A rotation as the kernels see it: plain pointers and numbers, passed by value. 40 bytes.
struct RotationView {
  const std::uint32_t* signs1;  ///< [dim] sign bits (0 or 0x80000000) applied before H, or null
  const std::uint32_t* signs2;  ///< [dim] sign bits applied after H, or null
  const float* matrix;          ///< kHadamard: H_m [m][m] of +-1, null if m = 1; kDense: P [dim][dim], row-major
  std::int32_t dim;
  std::int32_t m;  ///< order of the factor H_m: 1, 12, 20, 28 or 36
  float scale;     ///< 1/sqrt(dim) for kHadamard, else 1
  Mixing mixing;
};
static_assert(sizeof(RotationView) == 40);

inline namespace TQ_TARGET {

/// x with its sign bit flipped where `sign` is 0x80000000.
template <class V>
TQ_HD V flip_sign(V x, std::uint32_t sign) {
  using I = IntOf<V>;
  return bits_as<V>(bits_as<I>(x) ^ splat_int<I>(static_cast<std::int32_t>(sign)));
}

template <class V>
TQ_HD void flip_signs(V* x, const std::uint32_t* signs, int dim) {
  if (signs == nullptr) return;
  for (int i = 0; i < dim; ++i) x[i] = flip_sign(x[i], signs[i]);
}

/// `Levels` levels of butterflies, in registers, on 2^Levels values that lie `stride` apart. Upper = a + b, lower = a - b.
template <int Levels, class V>
TQ_HD void butterfly_group(V* x, int stride) {
  constexpr int kCount = 1 << Levels;
  V r[kCount];
  for (int i = 0; i < kCount; ++i) r[i] = x[i * stride];
  for (int level = 0; level < Levels; ++level) {
    const int step = 1 << level;
    for (int i = 0; i < kCount; ++i) {
      if ((i & step) != 0) continue;
      const V a = r[i];
      const V b = r[i + step];
      r[i] = a + b;
      r[i + step] = a - b;
    }
  }
  for (int i = 0; i < kCount; ++i) x[i * stride] = r[i];
}

/// The levels with strides stride .. stride * 2^(Levels-1) of every block of `dim` values.
template <int Levels, class V>
TQ_HD void butterfly_pass(V* x, int dim, int stride) {
  for (int base = 0; base < dim; base += stride << Levels) {
    for (int i = 0; i < stride; ++i) butterfly_group<Levels>(x + base + i, stride);
  }
}

/// Unnormalized fast Walsh-Hadamard transform, natural order, of each block of `block` values (a power of two) in
/// x[0..dim). Strides ascend 1, 2, 4, ...; how many levels share a pass over memory does not change any value.
template <class V>
TQ_HD void transform_blocks(V* x, int dim, int block) {
  int stride = 1;
  while (stride < block) {
    const int left = block / stride;
    if (left >= 8) {
      butterfly_pass<3>(x, dim, stride);
      stride *= 8;
    } else if (left == 4) {
      butterfly_pass<2>(x, dim, stride);
      stride *= 4;
    } else {
      butterfly_pass<1>(x, dim, stride);
      stride *= 2;
    }
  }
}

/// x := M x across the m blocks: out[a] = sum over b of (+-1) x[b], a pairwise tree, for every place in a block.
/// `transposed` takes H_m^T. scratch: 2 m values.
template <class V>
void mix_blocks(V* x, const RotationView& r, bool transposed, V* scratch) {
  const int block = r.dim / r.m;
  V* terms = scratch + r.m;
  for (int i = 0; i < block; ++i) {
    for (int a = 0; a < r.m; ++a) {
      for (int b = 0; b < r.m; ++b) {
        const float entry = transposed ? r.matrix[b * r.m + a] : r.matrix[a * r.m + b];
        terms[b] = flip_sign(x[b * block + i], bits_as<std::uint32_t>(entry) & 0x80000000u);
      }
      scratch[a] = sum_pairwise(terms, r.m);
    }
    for (int a = 0; a < r.m; ++a) x[a * block + i] = scratch[a];
  }
}

/// x := P x or P^T x for a dense matrix; each element a pairwise tree over its dim products. scratch: 2 dim values.
template <class V>
void multiply_dense(V* x, const RotationView& r, bool transposed, V* scratch) {
  V* terms = scratch + r.dim;
  for (int i = 0; i < r.dim; ++i) {
    for (int j = 0; j < r.dim; ++j) {
      const float entry = transposed ? r.matrix[j * r.dim + i] : r.matrix[i * r.dim + j];
      terms[j] = x[j] * splat<V>(entry);
    }
    scratch[i] = sum_pairwise(terms, r.dim);
  }
  for (int i = 0; i < r.dim; ++i) x[i] = scratch[i];
}

template <class V>
TQ_HD void mix(V* x, const RotationView& r, bool transposed, V* scratch) {
  if (r.mixing == Mixing::kDense) {
    multiply_dense(x, r, transposed, scratch);
  } else if (r.mixing == Mixing::kHadamard) {
    transform_blocks(x, r.dim, r.dim / r.m);
    if (r.m > 1) mix_blocks(x, r, transposed, scratch);
  }
}

/// x := s2 * (scale * (H (s1 * x))), where `scale` is RotationView::scale over the row's norm. scratch: 2 dim values.
template <class V>
TQ_HD void rotate_row(V* x, const RotationView& r, V scale, V* scratch) {
  flip_signs(x, r.signs1, r.dim);
  mix(x, r, false, scratch);
  for (int i = 0; i < r.dim; ++i) x[i] = x[i] * scale;
  flip_signs(x, r.signs2, r.dim);
}

/// x := s1 * (scale * (H^T (s2 * x))), where `scale` is RotationView::scale times the row's norm. scratch: 2 dim values.
template <class V>
TQ_HD void rotate_row_back(V* x, const RotationView& r, V scale, V* scratch) {
  flip_signs(x, r.signs2, r.dim);
  mix(x, r, true, scratch);
  for (int i = 0; i < r.dim; ++i) x[i] = x[i] * scale;
  flip_signs(x, r.signs1, r.dim);
}

}  // namespace TQ_TARGET
}  // namespace tq::math
