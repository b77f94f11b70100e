// Rows for gpu_parity that take every path of the code: zeros, tiny, huge and subnormal values, and what is to be refused.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "lib/convert.h"

namespace tq {

struct Rows {
  DType dtype;
  int dim;
  std::int64_t count;
  std::vector<std::uint8_t> bytes;

  std::size_t row_bytes() const { return static_cast<std::size_t>(dim) * size_of(dtype); }
};

/// Largest value of a row whose norm still fits float32.
inline float largest_value(DType dtype) { return dtype == DType::kF16 ? 6e4f : 8e36f; }

/// Ten rows that each take a path of their own, then normal rows of all magnitudes, some with a strong mean.
inline std::vector<float> make_values(DType dtype, int dim, std::int64_t count, float huge, std::uint32_t seed) {
  const bool f16 = dtype == DType::kF16;
  const float tiny = f16 ? 6e-5f : 1e-30f;
  const float subnormal = f16 ? 6e-8f : 1e-40f;
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count * dim));
  for (std::int64_t row = 0; row < count; ++row) {
    float* x = values.data() + row * dim;
    const float scale = std::ldexp(1.0f, static_cast<int>(row % 17) - 8);
    const float mean = row % 5 == 0 ? 3.0f : 0.0f;
    for (int i = 0; i < dim; ++i) {
      const float z = std::clamp(normal(generator), -4.0f, 4.0f);
      switch (row) {
        case 0: x[i] = 0.0f; break;
        case 1: x[i] = -0.0f; break;
        case 2: x[i] = i == dim / 2 ? -1.0f : 0.0f; break;
        case 3: x[i] = 0.25f; break;
        case 4: x[i] = z * tiny; break;
        case 5: x[i] = z > 0 ? subnormal : 0.0f; break;
        case 6: x[i] = z > 0 ? huge : -huge; break;
        case 7: x[i] = i == 0 ? huge : z * tiny; break;
        case 8: x[i] = i == dim - 1 ? subnormal : 0.0f; break;
        case 9: x[i] = z > 0 ? 1.0f : -1.0f; break;
        default: x[i] = scale * (z + mean);
      }
    }
  }
  return values;
}

inline Rows make_rows(DType dtype, int dim, std::int64_t count, float huge, std::uint32_t seed) {
  Rows rows{dtype, dim, count, {}};
  rows.bytes.resize(static_cast<std::size_t>(count) * rows.row_bytes());
  const std::vector<float> values = make_values(dtype, dim, count, huge, seed);
  convert_from_float(values.data(), count * dim, dtype, rows.bytes.data());
  return rows;
}

/// The rows without those whose norm, or that of its residual, F16 would make 0: row 9 stands in their places.
inline Rows without_tiny_rows(Rows rows) {
  for (const std::size_t row : {4, 5, 8}) {
    std::copy_n(rows.bytes.begin() + static_cast<std::ptrdiff_t>(9 * rows.row_bytes()), rows.row_bytes(),
                rows.bytes.begin() + static_cast<std::ptrdiff_t>(row * rows.row_bytes()));
  }
  return rows;
}

/// Writes `value` over element `i` of a row, or over all of them if i < 0.
inline void spoil(Rows& rows, std::int64_t row, int i, float value) {
  std::uint8_t bytes[4];
  convert_from_float(&value, 1, rows.dtype, bytes);
  std::uint8_t* x = rows.bytes.data() + static_cast<std::size_t>(row) * rows.row_bytes();
  for (int j = std::max(i, 0); j < (i < 0 ? rows.dim : i + 1); ++j) {
    std::memcpy(x + static_cast<std::size_t>(j) * size_of(rows.dtype), bytes, size_of(rows.dtype));
  }
}

/// A row whose norm has one of the two significands that BriefDivision does not take (0x50ab43, 0x792863), or is 2^16 or more.
inline void set_rare_norm(Rows& rows, std::int64_t row) {
  constexpr float kFirst[3][4] = {{0.6796875f, 3.46875f, 180.0f, 105.5f}, {222.0f, 113.0f, 5.15625f, 0.0f}, {6e4f, 3e4f, 1.5f, 0.0f}};
  spoil(rows, row, -1, 0.0f);
  for (int i = 0; i < 4; ++i) {
    std::uint8_t* x = rows.bytes.data() + static_cast<std::size_t>(row) * rows.row_bytes();
    convert_from_float(&kFirst[row % 3][i], 1, rows.dtype, x + static_cast<std::size_t>(i) * size_of(rows.dtype));
  }
}

/// Single values, some too small to divide by a multiplication, and zeros, in rows of usual size.
inline void add_small_values(Rows& rows) {
  for (std::int64_t row = 12; row < rows.count; row += 7) {
    const float sign = row % 2 == 0 ? 1.0f : -1.0f;
    const int exponent = -static_cast<int>(row % 90) - 58;  // -58 to -147
    spoil(rows, row, static_cast<int>(row % rows.dim), row % 3 == 0 ? sign * 0.0f : sign * std::ldexp(1.75f, exponent));
  }
}

}  // namespace tq
