// Confidence of the mean of values that come in a row and depend on each other, such as a model's errors from token to token.
// Neighbours of a text share their difficulty, so that tokens drawn one by one would promise too much: blocks of neighbours
// are drawn instead (Künsch 1989; Politis and Romano 1992: circular, so that every value is drawn as often as any other).
//
// One resample: starts are drawn uniformly from all values; from each, `block` values in a row, around the end of their
// window to its beginning, never into another window; until there are as many values as were measured. The 95 % interval
// runs between the 2.5th and 97.5th percentile of the resamples' means, both moved away from the mean by the factor
//   t(.975, B - 1) / z(.975) sqrt(B / (B - 1)),   B = values / block,
// because B blocks tell their own spread no better than B values would (Student's t; the factor is 1.29 for 8 blocks, 1.08
// for 32).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tq {

inline constexpr std::int64_t kBlockTokens = 16;      ///< of a block, at most
inline constexpr std::int64_t kFewestBlocks = 8;      ///< blocks are shorter where there would be fewer
inline constexpr int kResamples = 2000;
inline constexpr std::uint32_t kBootstrapSeed = 2504;
inline constexpr double kConfidence = 0.95;           ///< two-sided

struct MeanInterval {
  double mean = 0;
  double standard_error = 0;  ///< standard deviation of the resamples' means, times sqrt(B / (B - 1))
  double low = 0, high = 0;   ///< -inf and inf of fewer than two values
};

/// 16, or an eighth of the values where that is less; at least 1.
std::int64_t block_tokens(std::int64_t values);

/// Values of all windows, one window after the other; `windows` are their lengths, which add up to the values. The same
/// seed draws the same blocks, whatever the values. Of no values everything is NaN.
MeanInterval bootstrap_mean(std::span<const double> values, std::span<const std::int64_t> windows,
                            std::uint32_t seed = kBootstrapSeed);

}  // namespace tq
