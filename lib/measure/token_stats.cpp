#include "lib/measure/token_stats.h"

#include <algorithm>
#include <boost/math/distributions/binomial.hpp>
#include <cmath>
#include <limits>

#include "lib/measure/block_bootstrap.h"

namespace tq {
namespace {

/// ln of the sum of exp.
double log_sum_exp(std::span<const float> logits, double most) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - most);
  return most + std::log(sum);
}

std::size_t find_top(std::span<const float> logits) {
  return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

double cosine_of(std::span<const float> a, std::span<const float> b) {
  double dot = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    dot += x * y;
    aa += x * x;
    bb += y * y;
  }
  if (aa == 0 && bb == 0) return 1;
  return aa > 0 && bb > 0 ? dot / std::sqrt(aa * bb) : 0;
}

double nearest_rank(const std::vector<double>& sorted, double share) {
  if (sorted.empty()) return std::numeric_limits<double>::quiet_NaN();
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::max<std::size_t>(rank, 1) - 1];
}

/// One number of every token, windows in order.
template <class Field>
std::vector<double> collect(std::span<const std::vector<TokenComparison>> windows, Field field) {
  std::vector<double> values;
  for (const auto& window : windows) {
    for (const TokenComparison& token : window) values.push_back(field(token));
  }
  return values;
}

Interval widen_to_binomial(const MeanInterval& m, std::int64_t count) {
  if (count == 0) return {m.mean, m.low, m.high};
  const double tail = 0.5 * (1.0 - kConfidence);
  const auto n = static_cast<double>(count);
  const double agreed = std::round(m.mean * n);
  using Binomial = boost::math::binomial;
  const double low = agreed > 0 ? Binomial::find_lower_bound_on_p(n, agreed, tail) : 0.0;
  const double high = agreed < n ? Binomial::find_upper_bound_on_p(n, agreed, tail) : 1.0;
  return {m.mean, std::max(0.0, std::min(m.low, low)), std::min(1.0, std::max(m.high, high))};
}

}  // namespace

TokenComparison compare_token(std::span<const float> reference, std::span<const float> other, std::int32_t next) {
  const std::size_t top = find_top(reference), other_top = find_top(other);
  const double lse = log_sum_exp(reference, static_cast<double>(reference[top]));
  const double other_lse = log_sum_exp(other, static_cast<double>(other[other_top]));
  double shift = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const auto l = static_cast<double>(reference[i]);
    shift += std::exp(l - lse) * (l - static_cast<double>(other[i]));
  }
  const auto at = static_cast<std::size_t>(next);
  const double kl = shift + other_lse - lse;
  return {kl < 0 ? 0.0 : kl, lse - static_cast<double>(reference[at]), other_lse - static_cast<double>(other[at]),
          cosine_of(reference, other), top == other_top};
}

TokenSummary summarize_tokens(std::span<const std::vector<TokenComparison>> windows) {
  TokenSummary s;
  std::vector<std::int64_t> lengths;
  for (const auto& window : windows) {
    lengths.push_back(static_cast<std::int64_t>(window.size()));
    s.windows += window.empty() ? 0 : 1;
    s.predictions += lengths.back();
  }
  s.block_tokens = block_tokens(s.predictions);
  std::vector<double> kl = collect(windows, [](const TokenComparison& t) { return t.kl; });
  const MeanInterval kl_mean = bootstrap_mean(kl, lengths);
  s.kl = {kl_mean.mean, kl_mean.low < 0 ? 0.0 : kl_mean.low, kl_mean.high};
  s.kl_standard_error = kl_mean.standard_error;
  std::sort(kl.begin(), kl.end());
  s.kl_median = nearest_rank(kl, 0.5);
  s.kl_p99 = nearest_rank(kl, 0.99);
  s.kl_max = nearest_rank(kl, 1.0);

  const auto mean_of = [&](auto field) { return bootstrap_mean(collect(windows, field), lengths); };
  const MeanInterval rise = mean_of([](const TokenComparison& t) { return t.loss - t.reference_loss; });
  s.perplexity_ratio = {std::exp(rise.mean), std::exp(rise.low), std::exp(rise.high)};
  s.reference_perplexity = std::exp(mean_of([](const TokenComparison& t) { return t.reference_loss; }).mean);
  s.perplexity = std::exp(mean_of([](const TokenComparison& t) { return t.loss; }).mean);
  s.top1 = widen_to_binomial(mean_of([](const TokenComparison& t) { return t.same_top1 ? 1.0 : 0.0; }), s.predictions);
  std::vector<double> cosine = collect(windows, [](const TokenComparison& t) { return t.cosine; });
  s.cosine_mean = mean_of([](const TokenComparison& t) { return t.cosine; }).mean;
  std::sort(cosine.begin(), cosine.end());
  s.cosine_min = nearest_rank(cosine, 0.0);
  return s;
}

}  // namespace tq
