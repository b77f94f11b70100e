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

// What follows is float32 in the order of published implementations: at position 2000 the last bit of
// a frequency is 1e-4 of an angle. A number over a tensor is there its reciprocal times the number.

float power(float base, float exponent) {
  return static_cast<float>(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
}

/// turns[i] = theta ^ (2i / dims): positions a radian, of channel pair i.
std::vector<float> positions_per_radian(float theta, int dims) {
  std::vector<float> turns(static_cast<std::size_t>(dims) / 2);
  for (std::size_t i = 0; i < turns.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(dims);
    turns[i] = power(theta, exponent);
  }
  return turns;
}

std::vector<float> yarn_frequencies(const RopeConfig& c, const std::vector<float>& turns) {
  double low = yarn_channel(c, c.beta_fast);
  double high = yarn_channel(c, c.beta_slow);
  if (c.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(c.dims - 1));
  if (low == high) high += 0.001;
  const auto factor = static_cast<float>(c.factor);
  std::vector<float> inv_freq;
  for (const float turn : turns) {
    const float place = (static_cast<float>(inv_freq.size()) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float kept = 1.0f - std::clamp(place, 0.0f, 1.0f);
    inv_freq.push_back(1.0f / (factor * turn) * (1.0f - kept) + 1.0f / turn * kept);
  }
  return inv_freq;
}

float llama3_frequency(const RopeConfig& c, float f) {
  const auto context = static_cast<double>(c.original_context);
  const auto factor = static_cast<float>(c.factor);
  const float wavelength = 1.0f / f * static_cast<float>(2.0 * std::numbers::pi);
  if (wavelength < static_cast<float>(context / c.high_freq_factor)) return f;
  if (wavelength > static_cast<float>(context / c.low_freq_factor)) return f / factor;
  const float smooth = (1.0f / wavelength * static_cast<float>(context) - static_cast<float>(c.low_freq_factor)) /
                       static_cast<float>(c.high_freq_factor - c.low_freq_factor);
  return (1.0f - smooth) * f / factor + smooth * f;
}

float dynamic_theta(const RopeConfig& c, std::int64_t tokens) {
  if (tokens <= c.context) return static_cast<float>(c.theta);
  const float grown = static_cast<float>(c.factor) * static_cast<float>(tokens) / static_cast<float>(c.context) -
                      static_cast<float>(c.factor - 1.0);
  return static_cast<float>(c.theta) * static_cast<float>(std::pow(static_cast<double>(grown), c.dims / (c.dims - 2.0)));
}

}  // namespace

std::vector<float> rope_frequencies(const RopeConfig& c, std::int64_t tokens, double& attention_factor) {
  attention_factor = 1.0;
  const float theta = c.kind == RopeKind::kDynamic ? dynamic_theta(c, tokens) : static_cast<float>(c.theta);
  std::vector<float> turns = positions_per_radian(theta, c.dims);
  if (c.kind == RopeKind::kYarn) {
    attention_factor = yarn_attention_factor(c);
    return yarn_frequencies(c, turns);
  }
  if (c.kind == RopeKind::kLongRope) {
    attention_factor = longrope_attention_factor(c);
    const std::vector<double>& factors = tokens > c.original_context ? c.long_factor : c.short_factor;
    for (std::size_t i = 0; i < turns.size(); ++i) turns[i] *= static_cast<float>(factors[i]);
  }
  std::vector<float> inv_freq;
  for (const float turn : turns) inv_freq.push_back(1.0f / turn);
  for (float& f : inv_freq) {
    if (c.kind == RopeKind::kLinear) f /= static_cast<float>(c.factor);
    if (c.kind == RopeKind::kLlama3) f = llama3_frequency(c, f);
  }
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
      table.cos.push_back(static_cast<float>(std::cos(static_cast<double>(angle))) * static_cast<float>(factor));
      table.sin.push_back(static_cast<float>(std::sin(static_cast<double>(angle))) * static_cast<float>(factor));
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
