// How far a row x_hat is from x: four sums over a row, in double. Unlike the rest of lib/math a row lies in memory as it is, and
// eight partial sums, of the elements i with i mod 8 = 0..7, are added as a pairwise tree: the same sums in every target.
#pragma once

#include "lib/dtype.h"
#include "lib/math/convert.h"
#include "lib/measure/row_sums.h"

namespace tq::math {
inline namespace TQ_TARGET {

typedef double Double4 __attribute__((vector_size(32)));

/// Four halves as integers, and four floats as doubles: one instruction each, which g++ 12 does not find by itself.
TQ_HD IntLanes<4> widen_halves(const std::uint8_t* halves) {
#if defined(__AVX2__)
  return bits_as<IntLanes<4>>(_mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(halves))));
#else
  std::uint16_t h[4];
  memcpy(h, halves, sizeof(h));
  return IntLanes<4>{h[0], h[1], h[2], h[3]};
#endif
}

TQ_HD Double4 widen_floats(FloatLanes<4> four) {
#if defined(__AVX2__)
  return bits_as<Double4>(_mm256_cvtps_pd(bits_as<__m128>(four)));
#else
  return __builtin_convertvector(four, Double4);
#endif
}

/// Elements 4 i .. 4 i + 3 of a row of F32, F16 or BF16, as double. Exact.
TQ_HD Double4 load_four(DType dtype, const std::uint8_t* row, int i) {
  FloatLanes<4> four;
  if (dtype == DType::kF32) {
    memcpy(&four, row + 16 * i, sizeof(four));
  } else {
    const IntLanes<4> bits = widen_halves(row + 8 * i);
    four = dtype == DType::kF16 ? float_from_f16(bits) : float_from_bf16(bits);
  }
  return widen_floats(four);
}

/// Adds four elements to the partial sums of a row.
struct PartialSums {
  Double4 dot{}, x_energy{}, x_hat_energy{}, error_energy{};

  TQ_HD void add(Double4 x, Double4 x_hat) {
    const Double4 error = x - x_hat;
    dot += x * x_hat;
    x_energy += x * x;
    x_hat_energy += x_hat * x_hat;
    error_energy += error * error;
  }
};

TQ_HD double add_eight(Double4 low, Double4 high) {
  return ((low[0] + low[1]) + (low[2] + low[3])) + ((high[0] + high[1]) + (high[2] + high[3]));
}

/// The sums over one row of `dim` values; the types of its two sides are constants where it is called.
TQ_HD RowSums compare_row(DType dtype, const std::uint8_t* x, DType hat_dtype, const std::uint8_t* x_hat, int dim) {
  PartialSums low, high;
  int i = 0;
  for (; 4 * i + 8 <= dim; i += 2) {
    low.add(load_four(dtype, x, i), load_four(hat_dtype, x_hat, i));
    high.add(load_four(dtype, x, i + 1), load_four(hat_dtype, x_hat, i + 1));
  }
  if (4 * i < dim) {
    std::uint8_t rest[2][32] = {};
    memcpy(rest[0], x + 4 * i * static_cast<int>(size_of(dtype)), static_cast<std::size_t>(dim - 4 * i) * size_of(dtype));
    memcpy(rest[1], x_hat + 4 * i * static_cast<int>(size_of(hat_dtype)),
           static_cast<std::size_t>(dim - 4 * i) * size_of(hat_dtype));
    low.add(load_four(dtype, rest[0], 0), load_four(hat_dtype, rest[1], 0));
    high.add(load_four(dtype, rest[0], 1), load_four(hat_dtype, rest[1], 1));
  }
  return {add_eight(low.dot, high.dot), add_eight(low.x_energy, high.x_energy),
          add_eight(low.x_hat_energy, high.x_hat_energy), add_eight(low.error_energy, high.error_energy)};
}

}  // namespace TQ_TARGET
}  // namespace tq::math
