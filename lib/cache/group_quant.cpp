#include "lib/cache/group_quant.h"

#include <algorithm>
#include <cmath>

#include "lib/convert.h"

namespace tq {
namespace {

std::uint16_t to_f16(float value) {
  std::uint16_t half = 0;
  convert_from_float(&value, 1, DType::kF16, &half);
  return half;
}

float from_f16(std::uint16_t half) {
  float value = 0;
  convert_to_float(DType::kF16, &half, 1, &value);
  return value;
}

/// Puts or takes the `bits` bits of element i of a row.
void put_code(std::uint8_t* row, int i, int bits, unsigned code) {
  const int at = i * bits;
  const unsigned shifted = code << (at % 8);
  row[at / 8] = static_cast<std::uint8_t>(row[at / 8] | shifted);
  if (at % 8 + bits > 8) row[at / 8 + 1] = static_cast<std::uint8_t>(row[at / 8 + 1] | (shifted >> 8));
}

unsigned get_code(const std::uint8_t* row, int i, int bits) {
  const int at = i * bits;
  unsigned word = row[at / 8];
  if (at % 8 + bits > 8) word |= static_cast<unsigned>(row[at / 8 + 1]) << 8;
  return (word >> (at % 8)) & ((1u << bits) - 1u);
}

}  // namespace

void GroupRows::resize(const GroupShape& shape, std::int64_t rows) {
  count = rows;
  const auto n = static_cast<std::size_t>(rows);
  codes.assign(n * static_cast<std::size_t>(shape.code_bytes()), 0);
  steps.assign(n * static_cast<std::size_t>(shape.groups()), 0);
  minima.assign(steps.size(), 0);
}

std::int64_t encode_groups(const GroupShape& shape, std::span<const float> x, GroupRows& coded) {
  const auto dim = static_cast<std::size_t>(shape.dim);
  coded.resize(shape, static_cast<std::int64_t>(x.size() / dim));
  const auto largest_code = static_cast<float>((1 << shape.bits) - 1);
  for (std::int64_t row = 0; row < coded.count; ++row) {
    const float* values = x.data() + static_cast<std::size_t>(row) * dim;
    std::uint8_t* codes = coded.codes.data() + row * shape.code_bytes();
    for (int g = 0; g < shape.groups(); ++g) {
      const float* first = values + g * shape.group;
      const auto [low, high] = std::minmax_element(first, first + shape.group);
      const auto place = static_cast<std::size_t>(row * shape.groups() + g);
      coded.minima[place] = to_f16(*low);
      coded.steps[place] = to_f16(std::fabs(*high - *low) / largest_code);  // of 0 and -0 the difference may be -0
      const float minimum = from_f16(coded.minima[place]);
      const float step = from_f16(coded.steps[place]);
      if (!std::isfinite(minimum) || !std::isfinite(step)) return row;
      for (int i = 0; i < shape.group; ++i) {
        const float code = step > 0 ? std::nearbyint((first[i] - minimum) / step) : 0.0f;
        put_code(codes, g * shape.group + i, shape.bits, static_cast<unsigned>(std::clamp(code, 0.0f, largest_code)));
      }
    }
  }
  return -1;
}

void decode_groups(const GroupShape& shape, const GroupRows& coded, std::span<float> x_hat) {
  for (std::int64_t row = 0; row < coded.count; ++row) {
    const std::uint8_t* codes = coded.codes.data() + row * shape.code_bytes();
    float* values = x_hat.data() + row * shape.dim;
    for (int i = 0; i < shape.dim; ++i) {
      const auto place = static_cast<std::size_t>(row * shape.groups() + i / shape.group);
      values[i] = from_f16(coded.minima[place]) + static_cast<float>(get_code(codes, i, shape.bits)) * from_f16(coded.steps[place]);
    }
  }
}

}  // namespace tq
