#include "lib/measure/block_bootstrap.h"

#include <algorithm>
#include <boost/math/distributions/normal.hpp>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <limits>
#include <random>

namespace tq {
namespace {

/// Sums of values in a row within circular windows.
class Windows {
 public:
  Windows(std::span<const double> values, std::span<const std::int64_t> lengths) : sums_{0.0} {
    for (const double value : values) sums_.push_back(sums_.back() + value);
    std::int64_t first = 0;
    for (const std::int64_t length : lengths) {
      for (std::int64_t i = 0; i < length; ++i) window_of_.push_back({first, first + length});
      first += length;
    }
  }

  std::int64_t longest(std::int64_t start, std::int64_t wanted) const {
    const Range& window = window_of_[static_cast<std::size_t>(start)];
    return std::min(wanted, window.end - window.first);
  }

  double sum(std::int64_t start, std::int64_t count) const {
    const Range& window = window_of_[static_cast<std::size_t>(start)];
    const std::int64_t end = start + count;
    if (end <= window.end) return between(start, end);
    return between(start, window.end) + between(window.first, window.first + end - window.end);
  }

 private:
  struct Range {
    std::int64_t first, end;
  };
  double between(std::int64_t first, std::int64_t end) const {
    return sums_[static_cast<std::size_t>(end)] - sums_[static_cast<std::size_t>(first)];
  }
  std::vector<double> sums_;
  std::vector<Range> window_of_;
};

double resample_mean(const Windows& windows, std::int64_t count, std::int64_t block, std::mt19937_64& generator) {
  double sum = 0;
  for (std::int64_t drawn = 0; drawn < count;) {
    const auto start = static_cast<std::int64_t>(generator() % static_cast<std::uint64_t>(count));
    const std::int64_t taken = windows.longest(start, std::min(block, count - drawn));
    sum += windows.sum(start, taken);
    drawn += taken;
  }
  return sum / static_cast<double>(count);
}

}  // namespace

std::int64_t block_tokens(std::int64_t values) {
  return std::clamp<std::int64_t>(values / kFewestBlocks, 1, kBlockTokens);
}

MeanInterval bootstrap_mean(std::span<const double> values, std::span<const std::int64_t> windows, std::uint32_t seed) {
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  const auto count = static_cast<std::int64_t>(values.size());
  if (count == 0) return {kNone, kNone, kNone, kNone};
  double sum = 0;
  for (const double value : values) sum += value;
  const double mean = sum / static_cast<double>(count);
  if (count == 1) return {mean, kNone, -kInfinite, kInfinite};

  const std::int64_t block = block_tokens(count);
  const Windows circular(values, windows);
  std::mt19937_64 generator(seed);
  std::vector<double> means(kResamples);
  double squares = 0;
  for (double& resampled : means) {
    resampled = resample_mean(circular, count, block, generator);
    squares += (resampled - mean) * (resampled - mean);
  }
  std::sort(means.begin(), means.end());
  const double tail = 0.5 * (1.0 - kConfidence);
  const auto beyond = static_cast<std::size_t>(std::lround(tail * kResamples));
  const double low = means[beyond], high = means[means.size() - 1 - beyond];
  const double blocks = static_cast<double>(count) / static_cast<double>(block);
  const double few = std::sqrt(blocks / (blocks - 1.0));
  const double factor = few * boost::math::quantile(boost::math::students_t(blocks - 1.0), 1.0 - tail) /
                        boost::math::quantile(boost::math::normal(), 1.0 - tail);
  return {mean, few * std::sqrt(squares / kResamples), mean - factor * (mean - low), mean + factor * (high - mean)};
}

}  // namespace tq
