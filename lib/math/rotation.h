// The rotation of a row and its inverse, the transpose. y = s2 * H (s1 * x) for rht2, y = H (s1 * x) for rht1,
// y = P x for qr. H is H_m (x) H_2^k in Kronecker order with m slow: a row is m blocks of 2^k elements.
// Nothing is normalized here: the caller multiplies once, by `scale` (1/sqrt(dim) for H) together with the row's norm.
#pragma once

#include <type_traits>

#include "lib/math/norm.h"

namespace tq::math {

enum class Mixing : std::int32_t {
  kNone,      ///< identity
  kHadamard,  ///< H_m (x) H_2^k; m = 1: Sylvester
  kDense,     ///< any orthogonal matrix
};

/// A rotation as the kernels see it: plain pointers and numbers, passed by value. 40 bytes.
struct RotationView {
  const std::uint32_t* signs1;  ///< [dim] sign bits (0 or 0x80000000) applied before H; zeros where there are none
  const std::uint32_t* signs2;  ///< [dim] sign bits applied after H; zeros where there are none
  const float* matrix;          ///< kHadamard: H_m [m][m] of +-1, null if m = 1; kDense: P [dim][dim], row-major
  std::int32_t dim;
  std::int32_t m;  ///< order of the factor H_m: 1, 12, 20, 28 or 36
  float scale;     ///< 1/sqrt(dim) for kHadamard, else 1
  Mixing mixing;
};
static_assert(sizeof(RotationView) == 40);

/// Largest dim of a row, largest order of H_m, and the values that mix() needs beside the row.
inline constexpr int kMaxDim = 1024;
inline constexpr int kMaxOrder = 36;
inline constexpr int kRotationScratch = 2 * kMaxDim;

inline namespace TQ_TARGET {

/// x with its sign bit flipped where `sign` is 0x80000000.
template <class V>
TQ_HD V flip_sign(V x, std::uint32_t sign) {
  using I = IntOf<V>;
  return bits_as<V>(bits_as<I>(x) ^ splat_int<I>(static_cast<std::int32_t>(sign)));
}

/// Where a pass over x gets its values: element i as it stands. The first pass of a transform may get them changed, which saves a
/// pass of its own.
template <class V>
struct Stored {
  const V* x;
  TQ_HD V operator()(int i) const { return x[i]; }
};

/// `Levels` levels of butterflies on r[2^Levels], in registers. Upper = a + b, lower = a - b.
template <int Levels, class V>
TQ_HD void butterflies(V* r) {
  TQ_UNROLL(4)
  for (int level = 0; level < Levels; ++level) {
    const int step = 1 << level;
    TQ_UNROLL(16)
    for (int i = 0; i < 1 << Levels; ++i) {
      if ((i & step) != 0) continue;
      const V a = r[i];
      const V b = r[i + step];
      r[i] = a + b;
      r[i + step] = a - b;
    }
  }
}

/// The levels with strides stride .. stride * 2^(Levels-1), over all dim values. `Stride` is int, or a constant where the
/// compiler shall know it: it can then address the values without registers.
template <int Levels, class V, class Stride, class Source>
TQ_HD void butterfly_pass(V* x, int dim, Stride stride, Source source) {
  constexpr int kCount = 1 << Levels;
  for (int base = 0; base < dim; base += stride << Levels) {
    for (int first = base; first < base + stride; ++first) {
      V r[kCount];
      TQ_UNROLL(16)
      for (int i = 0; i < kCount; ++i) r[i] = source(first + i * stride);
      butterflies<Levels>(r);
      TQ_UNROLL(16)
      for (int i = 0; i < kCount; ++i) x[first + i * stride] = r[i];
    }
  }
}

/// All levels of blocks of 2^Levels values in the fewest passes that the registers allow: four levels have 16 values in flight.
template <int Levels, int Stride = 1, class V, class Source>
TQ_HD void transform_fixed(V* x, int dim, Source source) {
  constexpr int kMost = kMachineRegisters<V> >= 32 ? 4 : 3;
  constexpr int kHere = Levels / ((Levels + kMost - 1) / kMost);
  butterfly_pass<kHere>(x, dim, std::integral_constant<int, Stride>(), source);
  if constexpr (Levels > kHere) transform_fixed<Levels - kHere, (Stride << kHere)>(x, dim, Stored<V>{x});
}

/// Unnormalized fast Walsh-Hadamard transform, natural order, of each block of `block` values (a power of two) of
/// source(0..dim-1), into x[0..dim). Strides ascend 1, 2, 4, ...; how many levels share a pass over memory changes no value.
/// The blocks of most models' heads and groups have passes of their own in the wide targets.
template <class V, class Source>
TQ_HD void transform_blocks(V* x, int dim, int block, Source source) {
  if constexpr (kLanes<V> >= 8) {
    if (block == 64) return transform_fixed<6>(x, dim, source);
    if (block == 128) return transform_fixed<7>(x, dim, source);
    if (block == 256) return transform_fixed<8>(x, dim, source);
  }
  const auto pass = [&](int stride, auto from) {
    const int left = block / stride;
    if (left == 8 || left >= 32) {
      butterfly_pass<3>(x, dim, stride, from);
      return stride * 8;
    }
    if (left >= 4) {
      butterfly_pass<2>(x, dim, stride, from);
      return stride * 4;
    }
    butterfly_pass<1>(x, dim, stride, from);
    return stride * 2;
  };
  if (block == 1) {
    for (int i = 0; i < dim; ++i) x[i] = source(i);
    return;
  }
  for (int stride = pass(1, source); stride < block;) stride = pass(stride, Stored<V>{x});
}

/// x := H_m x across the m blocks (H_m^T if transposed): out[a] = sum over b of (+-1) x[b], a pairwise tree, for every
/// place in a block. m is a multiple of 4, and four inputs can be summed in eight ways up to sign: each is computed once,
/// which gives the same bits, since a sign moves through a sum exactly. scratch: 3 m values.
template <class V>
TQ_HD_CALL void mix_blocks(V* x, const RotationView& r, bool transposed, V* scratch) {
  const int block = r.dim / r.m;
  const int quads = r.m / 4;
  // For output a and quad q: which of the eight sums, and its sign bit.
  std::uint8_t sum_of[kMaxOrder * kMaxOrder / 4];
  for (int a = 0; a < r.m; ++a) {
    for (int q = 0; q < quads; ++q) {
      int minus = 0;
      for (int j = 0; j < 4; ++j) {
        const int b = 4 * q + j;
        minus |= (transposed ? r.matrix[b * r.m + a] : r.matrix[a * r.m + b]) < 0 ? 1 << j : 0;
      }
      sum_of[a * quads + q] = static_cast<std::uint8_t>((minus & 1) != 0 ? 16 | (~minus & 15) >> 1 : minus >> 1);
    }
  }
  V* sums = scratch;              // [quads][8]
  V* terms = scratch + 2 * r.m;   // [quads]
  for (int i = 0; i < block; ++i) {
    for (int q = 0; q < quads; ++q) {
      const V* in = x + 4 * q * block + i;
      const V a = in[0], b = in[block], c = in[2 * block], d = in[3 * block];
      const V left[2] = {a + b, a - b};
      const V right[2] = {c + d, c - d};
      // Bit 0, 1, 2 of the index: b, c, d enter with a minus.
      for (int j = 0; j < 8; ++j) {
        const V other = right[(j >> 1 & 1) ^ (j >> 2)];
        sums[8 * q + j] = (j & 2) != 0 ? left[j & 1] - other : left[j & 1] + other;
      }
    }
    for (int a = 0; a < r.m; ++a) {
      for (int q = 0; q < quads; ++q) {
        const std::uint8_t which = sum_of[a * quads + q];
        terms[q] = flip_sign(sums[8 * q + (which & 7)], static_cast<std::uint32_t>(which & 16) << 27);
      }
      x[a * block + i] = sum_pairwise(terms, quads) + splat<V>(0.0f);  // a sum of zero has no sign
    }
  }
}

/// x := P x or P^T x for a dense matrix; each element a pairwise tree over its dim products. scratch: 2 dim values.
template <class V>
TQ_HD_CALL void multiply_dense(V* x, const RotationView& r, bool transposed, V* scratch) {
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

/// x := M (signs * source) with M the unnormalized mixing matrix of the rotation, or its transpose. scratch: kRotationScratch
/// values.
template <class V, class Source>
TQ_HD_ONCE void mix(V* x, const RotationView& r, const std::uint32_t* signs, bool transposed, V* scratch, Source source) {
  const auto signed_source = [&](int i) { return flip_sign(source(i), signs[i]); };
  if (r.mixing == Mixing::kHadamard) {
    transform_blocks(x, r.dim, r.dim / r.m, signed_source);
    if (r.m > 1) mix_blocks(x, r, transposed, scratch);
    return;
  }
  transform_blocks(x, r.dim, 1, signed_source);
  if (r.mixing == Mixing::kDense) multiply_dense(x, r, transposed, scratch);
}

/// The same of x itself.
template <class V>
TQ_HD void mix(V* x, const RotationView& r, const std::uint32_t* signs, bool transposed, V* scratch) {
  mix(x, r, signs, transposed, scratch, Stored<V>{x});
}

/// Element i of s2 * (scale * x), the last step of the rotation: x as mix() left it with signs1, and `scale`
/// RotationView::scale over the row's norm.
template <class V>
TQ_HD V finish_rotation(const V* x, int i, const RotationView& r, V scale) {
  return flip_sign(x[i] * scale, r.signs2[i]);
}

/// Element i of s1 * (scale * x), the last step of the inverse: x as mix() left it with signs2, and `scale`
/// RotationView::scale times the row's norm.
template <class V>
TQ_HD V finish_rotation_back(const V* x, int i, const RotationView& r, V scale) {
  return flip_sign(x[i] * scale, r.signs1[i]);
}

}  // namespace TQ_TARGET
}  // namespace tq::math
