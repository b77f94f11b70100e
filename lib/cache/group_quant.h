// Asymmetric uniform quantization by groups of a row's channels: per group a minimum and a step, both F16, and codes
// round((x - minimum) / step), ties to even. KIVI (arXiv 2402.02750) keeps values so, and 0xSero's turboquant.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tq {

struct GroupShape {
  int dim = 0;    ///< channels of a row
  int group = 0;  ///< channels of a group; divides dim
  int bits = 0;   ///< 1..8

  int groups() const { return dim / group; }
  int code_bytes() const { return (dim * bits + 7) / 8; }
};

/// Rows in their coded form. Codes are packed as those of a Codec: element i in bits [i bits, (i+1) bits) of its row.
struct GroupRows {
  std::int64_t count = 0;
  std::vector<std::uint8_t> codes;     ///< [count][code_bytes()]
  std::vector<std::uint16_t> steps;    ///< [count][groups()] F16: (max - min) / (2^bits - 1)
  std::vector<std::uint16_t> minima;   ///< [count][groups()] F16

  void resize(const GroupShape& shape, std::int64_t rows);
};

/// x [count][dim] -> coded. Returns the first row with a value whose minimum or step F16 cannot hold (above 65504, or not
/// finite), or -1.
std::int64_t encode_groups(const GroupShape& shape, std::span<const float> x, GroupRows& coded);

/// The inverse: minimum + code step, each in float32. x_hat [count][dim].
void decode_groups(const GroupShape& shape, const GroupRows& coded, std::span<float> x_hat);

}  // namespace tq
