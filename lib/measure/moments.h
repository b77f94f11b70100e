// Power sums of values, for their kurtosis: how far from Gaussian they are.
#pragma once

#include <cstdint>
#include <span>

namespace tq {

/// Sums in double; merge in a fixed order where bytes must repeat.
struct Moments {
  std::int64_t count = 0;
  double sum = 0;
  double sum2 = 0;
  double sum3 = 0;
  double sum4 = 0;

  void add(std::span<const float> values);
  void merge(const Moments& other);

  /// E (x - mean)^4 / (E (x - mean)^2)^2: 3 for a Gaussian, 1.8 for a uniform density, more with outliers. NaN for fewer than
  /// two different values.
  double kurtosis() const;
};

}  // namespace tq
