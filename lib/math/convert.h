// F16 and BF16 to and from float32, on the bits: exact one way, round to nearest even the other way.
// The same arithmetic serves one value and a vector of values, and needs no conversion instruction.
#pragma once

#include "lib/math/lanes.h"

namespace tq::math {
inline namespace TQ_TARGET {

/// Low 16 bits of each lane, read as BF16. Exact.
template <class I>
TQ_HD FloatOf<I> float_from_bf16(I bits) {
  return bits_as<FloatOf<I>>(bits << 16);
}

/// Low 16 bits of each lane, read as F16. Exact, subnormals included.
/// The exponent is moved into place by a multiplication with 2^112, which also normalizes subnormals;
/// infinity and NaN then get the largest exponent.
template <class I>
TQ_HD FloatOf<I> float_from_f16(I bits) {
  using V = FloatOf<I>;
  const I magnitude = bits & 0x7fff;
  const I sign = (bits & 0x8000) << 16;
  const V scaled = bits_as<V>(magnitude << 13) * splat<V>(0x1p112f);
  const I special = mask_greater(bits_as<V>(magnitude << 13), bits_as<V>(splat_int<I>(0x0f7fffff)));
  return bits_as<V>(bits_as<I>(scaled) | sign | (special & 0x7f800000));
}

/// Nearest BF16, ties to even, in the high 16 bits of each lane; the low ones mean nothing. NaN stays NaN, and overflow
/// becomes infinity.
template <class V>
TQ_HD IntOf<V> bf16_in_high_half(V x) {
  using I = IntOf<V>;
  const I bits = bits_as<I>(x);
  const I is_nan = mask_greater_int(bits & 0x7fffffff, splat_int<I>(0x7f800000));
  const I half_and_odd = ((bits >> 16) & 1) + 0x7fff;
  return (bits + (~is_nan & half_and_odd)) | (is_nan & 0x400000);
}

/// Nearest BF16 in the low 16 bits of each lane, the others zero.
template <class V>
TQ_HD IntOf<V> bf16_from_float(V x) {
  return (bf16_in_high_half(x) >> 16) & 0xffff;
}

/// Nearest BF16 of two values: `low` in the low 16 bits of each lane, `high` in the high ones.
template <class V>
TQ_HD IntOf<V> bf16_pair_from_float(V low, V high) {
  return bf16_from_float(low) | (bf16_in_high_half(high) & ~0xffff);
}

/// Nearest F16, ties to even, in the low 16 bits of each lane. NaN stays NaN, and overflow becomes infinity.
template <class V>
TQ_HD IntOf<V> f16_from_float(V x) {
  using I = IntOf<V>;
  const I bits = bits_as<I>(x);
  const I sign = (bits >> 16) & 0x8000;
  const I magnitude = bits & 0x7fffffff;
  const V value = bits_as<V>(magnitude);
  // Below 2^-14 the F16 grid has the fixed step 2^-24: adding 0.5 lets the float adder round to it.
  const I subnormal = bits_as<I>(value + splat<V>(0.5f)) - 0x3f000000;
  const I odd = (magnitude >> 13) & 1;
  const I normal = (magnitude - 0x38000000 + 0xfff + odd) >> 13;
  const I is_normal = ~mask_greater(splat<V>(0x1p-14f), value);
  const I overflows = ~mask_greater(splat<V>(65520.0f), value);  // also NaN and infinity
  const I is_nan = ~mask_greater(value, splat<V>(-1.0f));
  const I finite = (is_normal & normal) | (~is_normal & subnormal);
  return sign | (~overflows & finite) | (overflows & 0x7c00) | (is_nan & 0x200);
}

}  // namespace TQ_TARGET
}  // namespace tq::math
