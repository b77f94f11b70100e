// Sums and the norm of a row. A sum is a pairwise tree: neighbours are added, an odd last term moves up as it is, and
// so on until one is left. The error grows with log2(n), and a GPU's shuffles give the same tree.
#pragma once

#include "lib/math/lanes.h"

namespace tq {

/// What is stored as the norm of a row x with rotated unit row y and levels c. A decoder multiplies with it, whatever it is.
enum class NormMode : std::int32_t {
  kRaw,           ///< |x|, the L2 norm of the original row
  kCorrected,     ///< |x| / |c|: the reconstruction has the norm of the original
  kLeastSquares,  ///< |x| <y, c> / <c, c>: the reconstruction is as near as its codes allow
};

namespace math {
inline namespace TQ_TARGET {

/// term(x[0], 0) + ... + term(x[7], 7) as a pairwise tree.
template <class V, class Term>
TQ_HD V sum_eight(const V* x, Term term) {
  return ((term(x[0], 0) + term(x[1], 1)) + (term(x[2], 2) + term(x[3], 3))) +
         ((term(x[4], 4) + term(x[5], 5)) + (term(x[6], 6) + term(x[7], 7)));
}

/// Sum of terms[0..count) as a pairwise tree. `terms` is overwritten; count >= 1.
template <class V>
TQ_HD V sum_pairwise(V* terms, int count) {
  if constexpr (kLanes<V> >= 8) {  // three levels at once, in registers
    for (; count % 8 == 0; count /= 8) {
      for (int i = 0; i < count / 8; ++i) terms[i] = sum_eight(terms + 8 * i, [](V term, int) { return term; });
    }
  }
  while (count > 1) {
    const int half = count / 2;
    for (int i = 0; i < half; ++i) terms[i] = terms[2 * i] + terms[2 * i + 1];
    if (count % 2 != 0) terms[half] = terms[count - 1];
    count = half + count % 2;
  }
  return terms[0];
}

/// Sum of term(x[i], j) over x[0..dim), the same tree. Where dim is a multiple of 8, three levels are done in registers and
/// j is i % 8, else it is 0: always a constant. `scratch` has room for dim values.
template <class V, class Term>
TQ_HD V sum_terms(const V* x, int dim, V* scratch, Term term) {
  if (dim % 8 != 0) {
    for (int i = 0; i < dim; ++i) scratch[i] = term(x[i], 0);
    return sum_pairwise(scratch, dim);
  }
  const int eighths = dim / 8;
  for (int i = 0; i < eighths; ++i) scratch[i] = sum_eight(x + 8 * i, term);
  return sum_pairwise(scratch, eighths);
}

/// Sum of squares of x[0..dim).
template <class V>
TQ_HD V sum_squares(const V* x, int dim, V* scratch) {
  return sum_terms(x, dim, scratch, [](V value, int) { return value * value; });
}

/// What a pass over a row finds. `least` means nothing where the row holds NaN.
template <class V>
struct RowSurvey {
  V squares;  ///< sum_squares()
  V least;    ///< no value is less in magnitude
};

/// Both in one pass. `least` may be 0 in any survey: divides_quickly() then looks at every value.
template <class V>
TQ_HD RowSurvey<V> survey_row(const V* x, int dim, V* scratch) {
  constexpr int kChains = 4;  // independent, so that a minimum need not wait for the one before
  V least[kChains] = {x[0], x[0], x[0], x[0]};
  const V squares = sum_terms(x, dim, scratch, [&least](V value, int place) {
    least[place % kChains] = least_magnitude(least[place % kChains], value);
    return value * value;
  });
  return {squares, least_magnitude(least_magnitude(least[0], least[1]), least_magnitude(least[2], least[3]))};
}

/// A row's norm, and whether it can be coded.
template <class V>
struct RowNorm {
  V norm;            ///< L2 norm, float32; 0 only for a row of zeros
  V scale;           ///< numerator / length; 0 for a row of zeros
  V length;          ///< norm of the row as it now stands in memory
  V least;           ///< none of its values is less in magnitude
  IntOf<V> refused;  ///< set where the row holds NaN or infinity, or where its norm overflows float32
};

/// Norm of rows of which some have squares outside float32's range (those not in `usual`): they are first scaled by a
/// power of two, which is exact. x changes to the scaled row, and `scale` belongs to that.
template <class V>
TQ_HD_CALL RowNorm<V> scaled_row_norm(V* x, int dim, float numerator, IntOf<V> usual, V* scratch) {
  using I = IntOf<V>;
  V largest = splat<V>(0.0f);
  I not_finite = splat_int<I>(0);
  for (int i = 0; i < dim; ++i) {
    const V magnitude = absolute(x[i]);
    largest = select(mask_greater(magnitude, largest), magnitude, largest);
    not_finite |= ~mask_greater(splat<V>(__builtin_inff()), magnitude);
  }
  // The powers of two 2^-e and 2^e with e the exponent of the largest element, both kept within the normal numbers.
  I exponent = (bits_as<I>(largest) >> 23) & 0xff;
  exponent += mask_greater(splat<V>(0x1p-126f), largest) & 1;
  exponent -= mask_greater(largest, splat<V>(0x1.fffffep126f)) & 1;
  const V down = select(usual, splat<V>(1.0f), bits_as<V>((254 - exponent) << 23));
  const V up = select(usual, splat<V>(1.0f), bits_as<V>(exponent << 23));
  for (int i = 0; i < dim; ++i) x[i] = x[i] * down;

  const V scaled = square_root(sum_squares(x, dim, scratch));
  const V zero = splat<V>(0.0f);
  RowNorm<V> result;
  result.norm = scaled * up;
  result.scale = select(mask_greater(scaled, zero), splat<V>(numerator) / scaled, zero);
  result.length = scaled;
  result.least = zero;
  result.refused = not_finite | ~mask_greater(splat<V>(__builtin_inff()), result.norm);
  return result;
}

/// Norm of x[0..dim), which is surveyed, and numerator / norm. Rows whose sum of squares is zero, tiny or infinite take
/// the scaled path; what a lane gets does not depend on its neighbours.
template <class V>
TQ_HD RowNorm<V> row_norm(V* x, int dim, RowSurvey<V> survey, float numerator, V* scratch) {
  using I = IntOf<V>;
  const I usual = mask_greater(survey.squares, splat<V>(0x1p-80f)) &
                  mask_greater(splat<V>(__builtin_inff()), survey.squares);
  if (any(~usual)) return scaled_row_norm(x, dim, numerator, usual, scratch);
  const V norm = square_root(survey.squares);
  return {norm, splat<V>(numerator) / norm, norm, survey.least, splat_int<I>(0)};
}
template <class V>
TQ_HD RowNorm<V> row_norm(V* x, int dim, float numerator, V* scratch) {
  return row_norm(x, dim, RowSurvey<V>{sum_squares(x, dim, scratch), splat<V>(0.0f)}, numerator, scratch);
}

/// x := x / length, each value correctly rounded (a row of zeros stays).
template <class V>
TQ_HD void divide_row(V* x, int dim, V length) {
  const V divisor = select(mask_greater(length, splat<V>(0.0f)), length, splat<V>(1.0f));
  for (int i = 0; i < dim; ++i) x[i] = x[i] / divisor;
}

/// The same, value by value, where divides_quickly() and the machine has a fused multiply-add: a multiplication with the
/// reciprocal and one exact remainder give the bits of the division (Markstein), up to the sign of zeros.
template <class V>
struct QuickDivision {
  const V* x;
  V length;
  V reciprocal;

  TQ_HD V operator()(int i) const {
    const V quotient = x[i] * reciprocal;
    return fused_multiply_add(fused_multiply_add(-quotient, length, x[i]), reciprocal, quotient);
  }
};

/// x / length of values with at most 8 significant bits, such as BF16's, in two operations where divides_briefly() and the machine has a
/// fused multiply-add. With 1 / length = high + low to 48 bits, the sum is rounded once and is off by 2^-48 of itself before; a quotient of
/// 8 by 24 bits comes that near to the middle of two floats for two lengths only.
template <class V>
struct BriefDivision {
  V high;
  V low;

  /// reciprocal: 1 / length, correctly rounded
  TQ_HD BriefDivision(V length, V reciprocal) : high(reciprocal) {
    const V rest = fused_multiply_add(-high, length, splat<V>(1.0f));  // exact
    const V first = rest * high;
    low = fused_multiply_add(fused_multiply_add(-first, length, rest), high, first);
  }
  TQ_HD V operator()(V x) const { return fused_multiply_add(x, high, x * low); }
};

/// A value smaller than this, and not 0, leaves a remainder that float32 cannot hold.
inline constexpr float kLeastDividend = 0x1p-62f;
/// Lengths that divide in the fast ways are above it.
inline constexpr float kLeastDivisor = 0x1p-40f;

/// Set where BriefDivision is exact, up to the sign of zeros: for values of 0 and from 2^-62 to length in magnitude, where length is between
/// 2^-40 and 2^16 and none of the two times a power of two (tests/test_math.cpp tries them all).
template <class V>
TQ_HD IntOf<V> divides_briefly(V length) {
  using I = IntOf<V>;
  const I mantissa = bits_as<I>(length) & 0x7fffff;
  const I off = mask_equal_int(mantissa, splat_int<I>(0x50ab43)) | mask_equal_int(mantissa, splat_int<I>(0x792863));
  return ~off & mask_greater(length, splat<V>(kLeastDivisor)) & mask_greater(splat<V>(0x1p16f), length);
}

/// Whether QuickDivision is exact: no value but 0 is below 2^-62 in magnitude, and length is in [2^-40, 2^64). None is below `least`.
template <class V>
TQ_HD bool divides_quickly(const V* x, int dim, V length, V least) {
  using I = IntOf<V>;
  const V limit = splat<V>(kLeastDividend);
  if (any(mask_greater(splat<V>(kLeastDivisor), length) | ~mask_greater(splat<V>(0x1p64f), length))) return false;
  if (!any(mask_greater(limit, least))) return true;
  I small = splat_int<I>(0);  // they may all be zeros
  for (int i = 0; i < dim; ++i) small |= mask_greater(limit, absolute(x[i])) & mask_greater(absolute(x[i]), splat<V>(0.0f));
  return !any(small);
}

}  // namespace TQ_TARGET
}  // namespace math
}  // namespace tq
