// What the tests of the codec share: rows, hex text, and one call that encodes and decodes.
#pragma once

#include <cmath>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "lib/backend.h"
#include "lib/convert.h"
#include "lib/measure/error_stats.h"
#include "lib/rotation.h"

namespace tq::test {

/// Sanitizer builds set TQ_TEST_REDUCED: same checks, fewer rows.
inline std::int64_t reduced(std::int64_t full, std::int64_t small) {
  return std::getenv("TQ_TEST_REDUCED") != nullptr ? small : full;
}

inline std::vector<float> gaussian_rows(std::uint32_t seed, std::int64_t rows, int dim) {
  const std::vector<double> normals = draw_normals(seed, static_cast<int>(rows * dim));
  return {normals.begin(), normals.end()};
}

struct Coded {
  std::vector<std::uint8_t> codes;
  std::vector<float> norms;
  std::vector<float> decoded;
  std::int64_t refused = -1;
};

inline Coded code_rows(const Backend& backend, const Codec& codec, const std::vector<float>& x) {
  const auto dim = static_cast<std::size_t>(codec.scheme().dim);
  const std::size_t rows = x.size() / dim;
  Coded out;
  out.codes.resize(rows * static_cast<std::size_t>(codec.scheme().code_bytes()));
  out.norms.resize(rows);
  out.decoded.resize(x.size());
  out.refused = backend.encode(codec, DType::kF32, x.data(), static_cast<std::int64_t>(rows), out.codes.data(), out.norms.data());
  if (out.refused >= 0) return out;
  backend.decode(codec, out.codes.data(), out.norms.data(), static_cast<std::int64_t>(rows), DType::kF32, out.decoded.data());
  return out;
}

inline ErrorStats measure_error(const std::vector<float>& x, const std::vector<float>& y, int dim) {
  ErrorStats stats;
  stats.add_rows(x.data(), y.data(), static_cast<std::int64_t>(x.size()) / dim, dim);
  return stats;
}

inline std::string to_hex(const std::vector<std::uint8_t>& bytes) {
  std::string text;
  for (const std::uint8_t byte : bytes) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

}  // namespace tq::test
