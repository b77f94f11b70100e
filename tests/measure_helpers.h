// What the tests of lib/measure share.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "lib/error.h"

namespace tq::test {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// |value - expected| <= tolerance; unlike doctest::Approx the tolerance is absolute, and NaN
/// fails.
inline bool is_near(double value, double expected, double tolerance) {
  return std::abs(value - expected) <= tolerance;
}

inline Floats draw_normal(std::size_t count, unsigned seed, float sigma = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, sigma);
  Floats values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

inline Floats add(const Floats& a, const Floats& b) {
  Floats sum(a);
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += b[i];
  return sum;
}

/// The message of the tq::Error that `action` throws; empty if it throws none.
template <typename Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const tq::Error& error) {
    return error.what();
  }
  return {};
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace tq::test
