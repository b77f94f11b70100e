// Per-channel sums, and the two ratios that are read from them.
#include "lib/measure/key_health.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "lib/error.h"

namespace tq {
namespace {

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return 0.5 * (values[(n - 1) / 2] + values[n / 2]);
}

std::size_t checked_dim(int dim) {
  if (dim < 1) throw Error("key health: dim " + std::to_string(dim) + ": give at least 1 channel");
  return static_cast<std::size_t>(dim);
}

}  // namespace

KeyHealth::KeyHealth(int dim) : sums_(checked_dim(dim)), energies_(checked_dim(dim)) {}

void KeyHealth::add_rows(std::span<const float> keys) {
  const std::size_t width = sums_.size();
  if (keys.size() % width != 0) {
    throw Error("key health: " + std::to_string(keys.size()) + " values are not whole keys of " +
                std::to_string(width) + " channels: give [tokens, dim]");
  }
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (std::isfinite(keys[i])) continue;
    throw Error("key health: the key of token " +
                std::to_string(static_cast<std::size_t>(tokens_) + i / width) + ", channel " +
                std::to_string(i % width) + " is NaN or infinite: mend the input");
  }
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const double value = keys[i];
    sums_[i % width] += value;
    energies_[i % width] += value * value;
  }
  tokens_ += static_cast<std::int64_t>(keys.size() / width);
}

void KeyHealth::merge(const KeyHealth& other) {
  if (other.dim() != dim()) {
    throw Error("key health: cannot merge " + std::to_string(other.dim()) + " channels into " +
                std::to_string(dim()) + ": merge heads of one dim");
  }
  tokens_ += other.tokens_;
  for (std::size_t c = 0; c < sums_.size(); ++c) {
    sums_[c] += other.sums_[c];
    energies_[c] += other.energies_[c];
  }
}

double KeyHealth::mean_energy_share() const {
  if (tokens_ == 0) return std::numeric_limits<double>::quiet_NaN();
  const double energy = std::accumulate(energies_.begin(), energies_.end(), 0.0);
  if (energy == 0) return 0;
  const double sum_energy = std::inner_product(sums_.begin(), sums_.end(), sums_.begin(), 0.0);
  return std::min(1.0, sum_energy / (static_cast<double>(tokens_) * energy));
}

double KeyHealth::channel_rms_ratio() const {
  if (tokens_ == 0) return std::numeric_limits<double>::quiet_NaN();
  std::vector<double> rms(energies_.size());
  const auto tokens = static_cast<double>(tokens_);
  std::transform(energies_.begin(), energies_.end(), rms.begin(),
                 [tokens](double energy) { return std::sqrt(energy / tokens); });
  const double loudest = *std::max_element(rms.begin(), rms.end());
  if (loudest == 0) return 1;
  const double median = median_of(std::move(rms));
  return median == 0 ? std::numeric_limits<double>::infinity() : loudest / median;
}

int KeyHealth::loudest_channel() const {
  return static_cast<int>(std::max_element(energies_.begin(), energies_.end()) - energies_.begin());
}

}  // namespace tq
