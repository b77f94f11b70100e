#include "lib/measure/moments.h"

#include <limits>

namespace tq {

void Moments::add(std::span<const float> values) {
  constexpr std::size_t kLanes = 4;  // independent sums, so that an addition need not wait for the one before
  double s1[kLanes] = {}, s2[kLanes] = {}, s3[kLanes] = {}, s4[kLanes] = {};
  std::size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const double x = values[i + lane];
      const double square = x * x;
      s1[lane] += x;
      s2[lane] += square;
      s3[lane] += square * x;
      s4[lane] += square * square;
    }
  }
  for (; i < values.size(); ++i) {
    const double x = values[i];
    s1[0] += x;
    s2[0] += x * x;
    s3[0] += x * x * x;
    s4[0] += x * x * x * x;
  }
  count += static_cast<std::int64_t>(values.size());
  sum += (s1[0] + s1[1]) + (s1[2] + s1[3]);
  sum2 += (s2[0] + s2[1]) + (s2[2] + s2[3]);
  sum3 += (s3[0] + s3[1]) + (s3[2] + s3[3]);
  sum4 += (s4[0] + s4[1]) + (s4[2] + s4[3]);
}

void Moments::merge(const Moments& other) {
  count += other.count;
  sum += other.sum;
  sum2 += other.sum2;
  sum3 += other.sum3;
  sum4 += other.sum4;
}

double Moments::kurtosis() const {
  const auto n = static_cast<double>(count);
  const double mean = sum / n;
  const double variance = sum2 / n - mean * mean;
  const double fourth = sum4 / n - 4 * mean * sum3 / n + 6 * mean * mean * sum2 / n - 3 * mean * mean * mean * mean;
  if (!(count > 1) || !(variance > 1e-12 * mean * mean)) return std::numeric_limits<double>::quiet_NaN();
  return fourth / (variance * variance);
}

}  // namespace tq
