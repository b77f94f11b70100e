// What a change does to logits: by hand where that can be done, and intervals against the truth they are to cover.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "lib/measure/block_bootstrap.h"
#include "lib/measure/token_stats.h"
#include "lib/verify/effect_gates.h"
#include "tests/measure_helpers.h"

using namespace tq;
using namespace tq::test;

namespace {

Floats logs_of(const Doubles& p, double shift = 0) {
  Floats logits;
  for (const double x : p) logits.push_back(static_cast<float>(std::log(x) + shift));
  return logits;
}

/// n values of an AR(1) process with variance 1, from a stationary start.
Doubles draw_chain(std::mt19937_64& generator, std::size_t n, double phi) {
  std::normal_distribution<double> normal;
  Doubles x(n);
  for (std::size_t i = 0; i < n; ++i) {
    x[i] = i == 0 ? normal(generator) : phi * x[i - 1] + std::sqrt(1 - phi * phi) * normal(generator);
  }
  return x;
}

struct Coverage {
  double bootstrap = 0, naive = 0, standard_error = 0;  // shares that hold the true mean 0; mean of the standard errors
};

Coverage cover(double phi, const std::vector<std::int64_t>& windows, int runs) {
  std::mt19937_64 generator(7);
  const auto n = static_cast<std::size_t>(std::accumulate(windows.begin(), windows.end(), std::int64_t{0}));
  Coverage share;
  for (int run = 0; run < runs; ++run) {
    Doubles x;
    for (const std::int64_t length : windows) {
      const Doubles one = draw_chain(generator, static_cast<std::size_t>(length), phi);
      x.insert(x.end(), one.begin(), one.end());
    }
    const MeanInterval found = bootstrap_mean(x, windows, static_cast<std::uint32_t>(run));
    double squares = 0;
    for (const double value : x) squares += (value - found.mean) * (value - found.mean);
    const double naive = 1.959964 * std::sqrt(squares) / static_cast<double>(n);
    share.bootstrap += found.low <= 0 && 0 <= found.high ? 1.0 / runs : 0;
    share.naive += std::abs(found.mean) <= naive ? 1.0 / runs : 0;
    share.standard_error += found.standard_error / runs;
  }
  return share;
}

TokenComparison token(double kl, double loss, double reference_loss, bool same, double cosine = 1) {
  return {kl, reference_loss, loss, cosine, same};
}

}  // namespace

TEST_CASE("one token by hand: KL, losses, top-1, cosine") {
  const Floats p = logs_of({.5, .25, .25}), q = logs_of({.25, .5, .25});
  const TokenComparison found = compare_token(p, q, 0);
  CHECK(found.kl == doctest::Approx(.25 * std::log(2.0)).epsilon(1e-6));
  CHECK(found.reference_loss == doctest::Approx(std::log(2.0)).epsilon(1e-6));
  CHECK(found.loss == doctest::Approx(std::log(4.0)).epsilon(1e-6));
  CHECK_FALSE(found.same_top1);
  CHECK(found.cosine == doctest::Approx(8.0 / 9).epsilon(1e-6));
  CHECK(compare_token(p, q, 2).loss == doctest::Approx(compare_token(p, q, 2).reference_loss).epsilon(1e-6));
  const TokenComparison one_sided = compare_token(logs_of({.9, .05, .05}), logs_of({.6, .2, .2}), 1);
  CHECK(one_sided.kl == doctest::Approx(.9 * std::log(1.5) + .1 * std::log(.25)).epsilon(1e-6));  // not the other way round
  CHECK(one_sided.same_top1);
}

TEST_CASE("equal logits differ by exactly nothing; a shift of all is not seen") {
  const Floats p = draw_normal(1000, 3, 4);
  const TokenComparison same = compare_token(p, p, 17);
  CHECK(same.kl == 0.0);
  CHECK(same.loss == same.reference_loss);
  CHECK(same.cosine == 1.0);
  CHECK(same.same_top1);
  const Doubles weights = {.5, .25, .25};
  const TokenComparison shifted = compare_token(logs_of(weights), logs_of(weights, 50), 1);
  CHECK(shifted.kl < 1e-5);
  CHECK(shifted.loss == doctest::Approx(shifted.reference_loss).epsilon(1e-5));
  CHECK(shifted.cosine < 0);
}

TEST_CASE("logits far apart stay finite, and those that are none are seen") {
  const Floats a = {1000, 0}, b = {0, 1000};
  CHECK(compare_token(a, b, 0).kl == doctest::Approx(1000));
  CHECK(compare_token(a, b, 0).loss == doctest::Approx(1000));
  CHECK(compare_token(a, b, 0).reference_loss == 0.0);
  const Floats bad = {std::numeric_limits<float>::infinity(), 0};
  CHECK_FALSE(std::isfinite(compare_token(a, bad, 0).kl));
  const Floats zeros = {0, 0};
  CHECK(compare_token(zeros, a, 0).cosine == 0.0);
  CHECK(compare_token(zeros, zeros, 0).cosine == 1.0);
  CHECK(compare_token(zeros, zeros, 0).same_top1);
}

TEST_CASE("a summary by hand, over two windows") {
  const std::vector<std::vector<TokenComparison>> windows = {
      {token(.1, 2, 1, true), token(.4, 3, 3, false, .5)}, {}, {token(.2, 1.5, 2, true), token(.3, 4, 3, true, .9)}};
  const TokenSummary s = summarize_tokens(windows);
  CHECK(s.windows == 2);
  CHECK(s.predictions == 4);
  CHECK(s.kl.estimate == doctest::Approx(.25));
  CHECK(s.kl_median == .2);
  CHECK(s.kl_p99 == .4);
  CHECK(s.kl_max == .4);
  CHECK(s.reference_perplexity == doctest::Approx(std::exp(9.0 / 4)));
  CHECK(s.perplexity == doctest::Approx(std::exp(10.5 / 4)));
  CHECK(s.perplexity_ratio.estimate == doctest::Approx(s.perplexity / s.reference_perplexity));
  CHECK(s.top1.estimate == .75);
  CHECK(s.cosine_mean == doctest::Approx(.85));
  CHECK(s.cosine_min == .5);
  for (const Interval* one : {&s.kl, &s.perplexity_ratio, &s.top1}) {
    CHECK(one->low < one->estimate);
    CHECK(one->estimate < one->high);
  }
  CHECK(s.kl.low >= 0);
  CHECK(std::isnan(summarize_tokens({}).kl.estimate));
}

TEST_CASE("no effect has an interval without width, but for top-1, of which a sample proves little") {
  const std::vector<std::vector<TokenComparison>> windows = {std::vector<TokenComparison>(127, token(0, 2, 2, true))};
  const TokenSummary s = summarize_tokens(windows);
  CHECK((s.kl.estimate == 0 && s.kl.low == 0 && s.kl.high == 0));
  CHECK((s.perplexity_ratio.estimate == 1 && s.perplexity_ratio.low == 1 && s.perplexity_ratio.high == 1));
  CHECK(s.top1.estimate == 1);
  CHECK(s.top1.high == 1);
  CHECK(s.top1.low == doctest::Approx(std::pow(.025, 1.0 / 127)).epsilon(1e-6));  // Clopper and Pearson
}

TEST_CASE("intervals of dependent values cover the truth; those that take them for independent do not") {
  const Coverage dependent = cover(.6, {256, 256}, 400);
  CHECK(dependent.bootstrap > .91);
  CHECK(dependent.bootstrap < .985);
  CHECK(dependent.naive > .55);  // theory: P(|z| < 1.96 / 2) = .67, for the variance of the mean is 4 times as large
  CHECK(dependent.naive < .78);
  CHECK(dependent.standard_error == doctest::Approx(2 / std::sqrt(512.0)).epsilon(.12));
  const Coverage independent = cover(0, {127}, 400);  // eight blocks
  CHECK(independent.bootstrap > .91);
  CHECK(independent.bootstrap < .985);
}

TEST_CASE("blocks stay in their window, and the same seed draws the same") {
  CHECK(block_tokens(2047) == 16);
  CHECK(block_tokens(127) == 15);
  CHECK(block_tokens(3) == 1);
  Doubles x(64);
  for (std::size_t i = 0; i < 64; ++i) x[i] = i < 32 ? 1 : 0;
  const std::int64_t whole[] = {64}, halves[] = {32, 32};
  const MeanInterval apart = bootstrap_mean(x, halves);
  CHECK(apart.mean == .5);
  CHECK(bootstrap_mean(x, halves).low == apart.low);
  CHECK(bootstrap_mean(x, halves, 1).standard_error != apart.standard_error);
  // 8 blocks that are each all 1 or all 0: a binomial of 8. Blocks over the seam would mix, and vary less.
  CHECK(apart.standard_error == doctest::Approx(std::sqrt(.25 / 8 * 8 / 7)).epsilon(.06));
  CHECK(bootstrap_mean(x, whole).standard_error < .95 * apart.standard_error);
  const std::int64_t one[] = {1};
  CHECK(std::isinf(bootstrap_mean(std::vector<double>{3}, one).high));
  CHECK(std::isnan(bootstrap_mean({}, {}).mean));
}

TEST_CASE("a gate on the output judges the end of the interval, a control its estimate") {
  TokenSummary s;
  s.kl = {.10, .05, .15};
  s.perplexity_ratio = {1.1, 1.0, 1.2};
  s.top1 = {.9, .8, .95};
  TokenSummary broken;
  broken.kl = {.3, .0, .6};
  broken.perplexity_ratio = {2, 1, 3};
  broken.top1 = {.5, .4, .97};
  const EffectControl controls[] = {{'b', Control::kOneBit, broken}};
  const auto judge_kl = [&](double limit) { return judge_effect(s, controls, {limit, {}, {}}).front(); };
  CHECK(judge_kl(.15).passed);
  CHECK_FALSE(judge_kl(.149).passed);
  CHECK(judge_kl(.29).sensitive);
  CHECK_FALSE(judge_kl(.3).sensitive);  // though its interval's end would fail
  CHECK(*judge_kl(.2).bound == .15);
  CHECK(judge_kl(.2).value == .10);
  const std::vector<GateReport> all = judge_effect(s, controls, {.2, 1.2, .8});
  REQUIRE(all.size() == 3);
  CHECK((all[1].passed && all[2].passed && all[1].sensitive && all[2].sensitive));
  CHECK(all[2].at_least);
  CHECK_FALSE(judge_effect(s, {}, {{}, 1.19, {}}).front().passed);
  CHECK_FALSE(judge_effect(s, {}, {{}, {}, .81}).front().passed);
  CHECK(judge_effect(s, {}, {}).empty());
  CHECK_FALSE(judge_effect(summarize_tokens({}), {}, {.2, {}, {}}).front().measured);
}
