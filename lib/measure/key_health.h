// What makes the keys of one head hard to quantize: a strong mean over tokens (a k_proj bias) and
// channels that are far louder than the rest. Per-channel sums, merged over threads; a remedy's
// gain can be estimated from the same sums.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tq {

/// Per-channel sums over the tokens of one head's keys.
class KeyHealth {
 public:
  /// `dim` channels (head_dim), at least 1, else Error.
  explicit KeyHealth(int dim);

  /// Adds `tokens` keys, row-major [tokens, dim] float32, of which the span holds tokens * dim
  /// values. Throws Error, and adds nothing, if the span is not whole rows or holds NaN or infinity
  /// (named by token and channel).
  void add_rows(std::span<const float> keys);

  /// Adds what `other` saw; the same `dim`, else Error. Sums agree to rounding in any grouping:
  /// merge in a fixed order where bytes must repeat.
  void merge(const KeyHealth& other);

  std::int64_t tokens() const { return tokens_; }
  int dim() const { return static_cast<int>(sums_.size()); }

  /// [dim] sum over tokens of k_c, and of k_c^2.
  std::span<const double> sums() const { return sums_; }
  std::span<const double> energies() const { return energies_; }

  /// T |mean|^2 / sum_t |k_t|^2, with T tokens and mean = sum_t k_t / T: the share of the keys'
  /// energy that is the same for every token, 0..1. About 1/T for zero-mean keys; near 1 the codes
  /// describe the mean, not the tokens. 0 when every key is zero; NaN when there are none.
  double mean_energy_share() const;

  /// rms of the loudest channel / median channel rms, >= 1, with rms_c = sqrt(sum_t k_c^2 / T); for
  /// an even dim the median is the mean of the middle two. 1 when every key is zero, infinity when
  /// more than half of the channels are silent but not all; NaN when there are no tokens.
  double channel_rms_ratio() const;

  /// The channel of the largest rms, the lowest of equals, 0..dim-1.
  int loudest_channel() const;

 private:
  std::int64_t tokens_ = 0;
  std::vector<double> sums_;
  std::vector<double> energies_;
};

}  // namespace tq
