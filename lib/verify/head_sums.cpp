#include "lib/verify/head_sums.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace tq {

void PartSums::describe(const CacheCodec& of) {
  const CacheScheme& scheme = of.scheme();
  const bool turns = scheme.kind == CacheKind::kTurboQuant;
  heads = 1;
  average_bits = scheme.average_bits() - (turns && scheme.rows.qjl ? 1 : 0);
  codec.dim = scheme.dim;
  codec.bits = turns ? scheme.rows.bits : static_cast<int>(average_bits);
  codec.distortion = codec.codebook_bound = std::numeric_limits<double>::quiet_NaN();
  codec.ideal_cosine =
      scheme.kind == CacheKind::kExact ? 1.0 : std::sqrt(1.0 - theorem1_bound(codec.bits));
  for (const Codec* rows : {of.outliers(), of.rows()}) {
    if (rows == nullptr) continue;
    codec.distortion = rows->distortion();
    codec.codebook_bound =
        std::fmax(codec.codebook_bound, rows->distortion() / theorem1_bound(rows->scheme().bits));
    codec.ideal_cosine =
        std::sqrt(1.0 - table_distortion(rows->codebook(), Density::kBeta, rows->scheme().dim));
  }
}

void PartSums::merge(const PartSums& other) {
  const double bound = std::fmax(codec.codebook_bound,
                                 other.codec.codebook_bound);  // of NaN and a number the number
  if (heads == 0 || other.codec.bits < codec.bits) codec = other.codec;
  codec.codebook_bound = heads == 0 ? other.codec.codebook_bound : bound;
  average_bits += other.average_bits;
  heads += other.heads;
  errors.merge(other.errors);
  expected += other.expected;
  has_seeds |= other.has_seeds;
  has_sketch |= other.has_sketch;
  residual_dot_sketch += other.residual_dot_sketch;
  residual_dot_other_sketch += other.residual_dot_other_sketch;
  sketched_error += other.sketched_error;
  for (std::size_t i = 0; i < kOtherSeeds; ++i) other_seed_error[i] += other.other_seed_error[i];
  for (std::size_t i = 0; i < kControls; ++i) controls[i].merge(other.controls[i]);
}

void HeadSums::merge(const HeadSums& other) {
  k.merge(other.k);
  v.merge(other.v);
  const auto merge_attention = [](auto& into, const auto& from) {
    if (!from) return;
    if (!into) into.emplace();
    into->merge(*from);
  };
  merge_attention(attention, other.attention);
  for (std::size_t i = 0; i < kControls; ++i)
    merge_attention(k_control_attention[i], other.k_control_attention[i]);
  if (other.health.mean_energy_share > health.mean_energy_share) {
    health.mean_energy_share = other.health.mean_energy_share;
    health.mean_head = other.health.mean_head;
  }
  for (std::size_t i = 0; i < kRemedies; ++i) remedy_error[i] += other.remedy_error[i];
  kept_channels = std::max(kept_channels, other.kept_channels);
  if (other.health.channel_rms_ratio > health.channel_rms_ratio) {
    health.channel_rms_ratio = other.health.channel_rms_ratio;
    health.channel_head = other.health.channel_head;
    health.channel = other.health.channel;
  }
}

namespace {

PartNumbers summarize(const PartSums& sums) {
  const ErrorStats& e = sums.errors;
  PartNumbers n;
  n.dim = sums.codec.dim;
  n.bits = sums.codec.bits;
  n.average_bits = sums.average_bits / sums.heads;
  n.distortion = sums.codec.distortion;
  n.codebook_bound = sums.codec.codebook_bound;
  n.ideal_cosine = sums.codec.ideal_cosine;
  n.rows = e.rows();
  n.relative_mse = e.relative_mse();
  n.expected_mse = e.x_energy() > 0 ? sums.expected / e.x_energy() : n.distortion;
  n.mse_ratio = n.relative_mse / n.expected_mse;
  n.bound_ratio = n.relative_mse / theorem1_bound(n.bits);
  n.bits_lost = 0.5 * std::log2(n.relative_mse * std::exp2(2 * n.average_bits));
  n.cosine_flattened = e.cosine_flattened();
  n.cosine_mean = e.cosine_mean();
  n.cosine_p1 = e.cosine_p1();
  n.cosine_min = e.cosine_min();
  n.norm_bias = e.norm_bias();
  n.worst_row = e.worst_row();
  if (sums.has_sketch) {
    n.qjl_slope = sums.residual_dot_sketch / sums.sketched_error;
    n.qjl_slope_other_seed = sums.residual_dot_other_sketch / sums.sketched_error;
  }
  n.other_seeds_mean = n.other_seeds_min = n.other_seeds_max =
      std::numeric_limits<double>::quiet_NaN();
  if (sums.has_seeds) {
    const double unit = sums.expected > 0 ? sums.expected : 1.0;
    const auto [low, high] =
        std::minmax_element(sums.other_seed_error.begin(), sums.other_seed_error.end());
    n.other_seeds_min = *low / unit;
    n.other_seeds_max = *high / unit;
    n.other_seeds_mean =
        std::accumulate(sums.other_seed_error.begin(), sums.other_seed_error.end(), 0.0) / unit /
        kOtherSeeds;
  }
  for (std::size_t i = 0; i < kControls; ++i) {
    const ErrorStats& c = sums.controls[i];
    if (c.rows() > 0) n.controls[i] = {c.cosine_flattened(), c.cosine_min(), c.relative_mse()};
  }
  return n;
}

std::optional<AttentionNumbers> summarize(const std::optional<AttentionStats>& stats) {
  if (!stats) return std::nullopt;
  return AttentionNumbers{stats->queries(),
                          stats->logit_rmse(),
                          stats->kl_mean(),
                          stats->kl_p99(),
                          stats->kl_max(),
                          stats->top1_agreement(),
                          stats->output_relative_error(),
                          stats->output_cosine_mean()};
}

}  // namespace

Measurement summarize(const HeadSums& sums) {
  Measurement m;
  m.k = summarize(sums.k);
  m.v = summarize(sums.v);
  m.attention = summarize(sums.attention);
  for (std::size_t i = 0; i < kControls; ++i)
    m.k_control_attention[i] = summarize(sums.k_control_attention[i]);
  m.health = sums.health;
  const double error = sums.k.errors.error_energy();
  const auto gain = [&](std::size_t i) { return error > 0 ? sums.remedy_error[i] / error : 1.0; };
  m.health.remedies = {gain(0), gain(1), gain(2), sums.kept_channels};
  return m;
}

}  // namespace tq
