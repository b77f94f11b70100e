#include "lib/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tq {
namespace {

double yarn_mscale(double factor, double mscale) { return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; }

double yarn_attention_factor(const RopeConfig& c) {
  if (c.attention_factor) return *c.attention_factor;
  if (c.mscale.value_or(0) != 0 && c.mscale_all_dim.value_or(0) != 0) {
    return yarn_mscale(c.factor, *c.mscale) / yarn_mscale(c.factor, *c.mscale_all_dim);
  }
  return yarn_mscale(c.factor, 1.0);
}

double longrope_attention_factor(const RopeConfig& c) {
  if (c.attention_factor) return *c.attention_factor;
  if (c.factor <= 1) return 1.0;
  return std::sqrt(1.0 + std::log(c.factor) / std::log(static_cast<double>(c.original_context)));
}

/// The channel pair that makes `rotations` turns within the original context.
double yarn_channel(const RopeConfig& c, double rotations) {
  return c.dims * std::log(static_cast<double>(c.original_context) / (rotations * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(c.theta));
}

void scale_yarn(const RopeConfig& c, std::vector<float>& inv_freq) {
  double low = yarn_channel(c, c.beta_fast);
  double high = yarn_channel(c, c.beta_slow);
  if (c.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(c.dims - 1));
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < inv_freq.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inv_freq[i] = static_cast<float>(inv_freq[i] / c.factor * ramp + inv_freq[i] * (1.0 - ramp));
  }
}

void scale_llama3(const RopeConfig& c, std::vector<float>& inv_freq) {
  const auto context = static_cast<double>(c.original_context);
  for (float& f : inv_freq) {
    const double wavelength = 2.0 * std::numbers::pi / f;
    if (wavelength < context / c.high_freq_factor) continue;
    if (wavelength > context / c.low_freq_factor) {
      f = static_cast<float>(f / c.factor);
      continue;
    }
    const double smooth = (context / wavelength - c.low_freq_factor) / (c.high_freq_factor - c.low_freq_factor);
    f = static_cast<float>((1.0 - smooth) * f / c.factor + smooth * f);
  }
}

}  // namespace

std::vector<float> rope_frequencies(const RopeConfig& c, std::int64_t tokens, double& attention_factor) {
  attention_factor = 1.0;
  double theta = c.theta;
  if (c.kind == RopeKind::kDynamic) {
    const auto context = static_cast<double>(c.context);
    const double length = std::max(static_cast<double>(tokens), context);
    theta *= std::pow(c.factor * length / context - (c.factor - 1.0), c.dims / (c.dims - 2.0));
  }
  const bool beyond = tokens > c.original_context;
  std::vector<float> inv_freq(static_cast<std::size_t>(c.dims) / 2);
  for (std::size_t i = 0; i < inv_freq.size(); ++i) {
    double turn = std::pow(theta, 2.0 * static_cast<double>(i) / c.dims);
    if (c.kind == RopeKind::kLongRope) turn *= beyond ? c.long_factor[i] : c.short_factor[i];
    if (c.kind == RopeKind::kLinear) turn *= c.factor;
    inv_freq[i] = static_cast<float>(1.0 / turn);
  }
  if (c.kind == RopeKind::kYarn) {
    scale_yarn(c, inv_freq);
    attention_factor = yarn_attention_factor(c);
  }
  if (c.kind == RopeKind::kLongRope) attention_factor = longrope_attention_factor(c);
  if (c.kind == RopeKind::kLlama3) scale_llama3(c, inv_freq);
  return inv_freq;
}

RopeTable make_rope_table(const RopeConfig& config, std::int64_t tokens) {
  double factor = 1;
  const std::vector<float> inv_freq = rope_frequencies(config, tokens, factor);
  RopeTable table;
  table.dims = config.dims;
  table.cos.reserve(static_cast<std::size_t>(tokens) * inv_freq.size());
  table.sin.reserve(table.cos.capacity());
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (const float f : inv_freq) {
      const float angle = static_cast<float>(t) * f;
      table.cos.push_back(static_cast<float>(std::cos(static_cast<double>(angle)) * factor));
      table.sin.push_back(static_cast<float>(std::sin(static_cast<double>(angle)) * factor));
    }
  }
  return table;
}

void apply_rope(const RopeTable& table, RopePairs pairs, std::int64_t first_position, std::int64_t rows,
                std::int64_t stride, float* x) {
  const auto half = static_cast<std::size_t>(table.dims) / 2;
  const std::size_t step = pairs == RopePairs::kHalves ? 1 : 2;
  const std::size_t partner = pairs == RopePairs::kHalves ? half : 1;
  std::vector<float> turned(2 * half);
  for (std::int64_t r = 0; r < rows; ++r) {
    float* row = x + r * stride;
    const float* cos = table.cos.data() + static_cast<std::size_t>(first_position + r) * half;
    const float* sin = table.sin.data() + static_cast<std::size_t>(first_position + r) * half;
    for (std::size_t i = 0; i < half; ++i) {
      const float a = row[i * step];
      const float b = row[i * step + partner];
      turned[i] = a * cos[i] - b * sin[i];
      turned[half + i] = b * cos[i] + a * sin[i];
    }
    const bool apart = pairs != RopePairs::kNeighbours;
    for (std::size_t i = 0; i < half; ++i) {
      row[apart ? i : 2 * i] = turned[i];
      row[apart ? half + i : 2 * i + 1] = turned[half + i];
    }
  }
}

}  // namespace tq
