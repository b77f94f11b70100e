// lib/measure against values worked out by hand, and against a second, naive computation in double.
// Brackets are two-sided: an unexplained improvement fails too.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "lib/error.h"
#include "lib/measure/attention_stats.h"
#include "lib/measure/error_stats.h"
#include "lib/measure/key_health.h"

namespace {

using tq::AttentionInputs;
using tq::AttentionStats;
using tq::ErrorStats;
using tq::KeyHealth;
using tq::LogitComparison;
using Floats = std::vector<float>;
using Doubles = std::vector<double>;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// |value - expected| <= tolerance; unlike doctest::Approx the tolerance is absolute, and NaN
/// fails.
bool is_near(double value, double expected, double tolerance) {
  return std::abs(value - expected) <= tolerance;
}

Floats draw_normal(std::size_t count, unsigned seed, float sigma = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, sigma);
  Floats values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

Floats add(const Floats& a, const Floats& b) {
  Floats sum(a);
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += b[i];
  return sum;
}

ErrorStats measure_rows(const Floats& x, const Floats& x_hat, int dim) {
  ErrorStats stats;
  stats.add_rows(x.data(), x_hat.data(), static_cast<std::int64_t>(x.size()) / dim, dim);
  return stats;
}

/// The message of the tq::Error that `action` throws; empty if it throws none.
template <typename Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const tq::Error& error) {
    return error.what();
  }
  return {};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Two rows by hand: (3,4) -> (3,0): error 16, cosine 9/15 = .6, norms 5 and 3; (0,2) -> (0,2):
// exact.
const Floats kHandX = {3, 4, 0, 2};
const Floats kHandXHat = {3, 0, 0, 2};

void check_same_results(const ErrorStats& a, const ErrorStats& b) {
  CHECK(a.rows() == b.rows());
  CHECK(a.values() == b.values());
  CHECK(a.cosine_p1() == b.cosine_p1());
  CHECK(a.cosine_min() == b.cosine_min());
  CHECK(a.worst_row() == b.worst_row());
  CHECK(is_near(a.relative_mse(), b.relative_mse(), 1e-14));
  CHECK(is_near(a.cosine_flattened(), b.cosine_flattened(), 1e-14));
  CHECK(is_near(a.cosine_mean(), b.cosine_mean(), 1e-14));
  CHECK(is_near(a.norm_bias(), b.norm_bias(), 1e-14));
}

/// One small attention problem and its owner.
struct Problem {
  Floats q, k, k_hat, v, v_hat;
  AttentionInputs shape;

  AttentionInputs inputs() const {
    AttentionInputs in = shape;
    in.q = q;
    in.k = k;
    in.k_hat = k_hat;
    in.v = v;
    in.v_hat = v_hat;
    return in;
  }
};

Problem draw_problem(std::int64_t heads, std::int64_t q_tokens, std::int64_t tokens,
                     std::int64_t d_k, std::int64_t d_v) {
  Problem problem;
  problem.shape.query_heads = heads;
  problem.shape.q_tokens = q_tokens;
  problem.shape.tokens = tokens;
  problem.shape.d_k = d_k;
  problem.shape.d_v = d_v;
  problem.shape.scale = 1.5 / std::sqrt(static_cast<double>(d_k));
  const auto k_size = static_cast<std::size_t>(tokens * d_k);
  const auto v_size = static_cast<std::size_t>(tokens * d_v);
  problem.q = draw_normal(static_cast<std::size_t>(heads * q_tokens * d_k), 1);
  problem.k = draw_normal(k_size, 2);
  problem.v = draw_normal(v_size, 3);
  problem.k_hat = add(problem.k, draw_normal(k_size, 4, 0.2f));
  problem.v_hat = add(problem.v, draw_normal(v_size, 5, 0.1f));
  return problem;
}

/// The results of AttentionStats as plain numbers, computed by the definition, one pair at a time,
/// in double.
struct NaiveAttention {
  std::int64_t pairs = 0;
  std::int64_t agreed = 0;
  double error_energy = 0, output_energy = 0, output_error = 0, cosine_sum = 0;
  Doubles kl;
};

double naive_dot(const float* a, const float* b, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

Doubles naive_logits(const AttentionInputs& in, const float* query, std::span<const float> keys,
                     std::int64_t position) {
  Doubles logits;
  for (std::int64_t t = 0; t <= position; ++t) {
    if (in.window && position - t >= *in.window) continue;
    double logit = naive_dot(query, keys.data() + t * in.d_k, in.d_k) * in.scale;
    if (in.softcap) logit = *in.softcap * std::tanh(logit / *in.softcap);
    logits.push_back(logit);
  }
  return logits;
}

Doubles naive_softmax(const Doubles& logits) {
  Doubles p;
  double sum = 0;
  for (double logit : logits) sum += std::exp(logit);
  for (double logit : logits) p.push_back(std::exp(logit) / sum);
  return p;
}

std::size_t first_largest(const Doubles& values) {
  return static_cast<std::size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

void add_naive_query(const AttentionInputs& in, const float* query, std::int64_t position,
                     NaiveAttention& result) {
  const Doubles logits = naive_logits(in, query, in.k, position);
  const Doubles logits_hat = naive_logits(in, query, in.k_hat, position);
  const Doubles p = naive_softmax(logits);
  const Doubles p_hat = naive_softmax(logits_hat);
  double kl = 0;
  Doubles o(static_cast<std::size_t>(in.d_v)), o_hat(o);
  for (std::size_t i = 0; i < p.size(); ++i) {
    result.error_energy += std::pow(logits[i] - logits_hat[i], 2);
    kl += p[i] * std::log(p[i] / p_hat[i]);
    const std::size_t t = static_cast<std::size_t>(position) + 1 - p.size() + i;
    for (std::size_t c = 0; c < o.size(); ++c) {
      o[c] += p[i] * static_cast<double>(in.v[t * o.size() + c]);
      o_hat[c] += p_hat[i] * static_cast<double>(in.v_hat[t * o.size() + c]);
    }
  }
  result.pairs += static_cast<std::int64_t>(p.size());
  if (p.size() > 1) {
    result.kl.push_back(kl);
    result.agreed += first_largest(logits) == first_largest(logits_hat) ? 1 : 0;
  }
  double dot = 0, energy = 0, energy_hat = 0;
  for (std::size_t c = 0; c < o.size(); ++c) {
    dot += o[c] * o_hat[c];
    energy += o[c] * o[c];
    energy_hat += o_hat[c] * o_hat[c];
    result.output_error += std::pow(o[c] - o_hat[c], 2);
  }
  result.output_energy += energy;
  result.cosine_sum += dot / std::sqrt(energy * energy_hat);
}

void check_against_naive(const Problem& problem) {
  const AttentionInputs in = problem.inputs();
  NaiveAttention naive;
  for (std::int64_t row = 0; row < in.query_heads * in.q_tokens; ++row) {
    const std::int64_t position = in.tokens - in.q_tokens + row % in.q_tokens;
    add_naive_query(in, in.q.data() + row * in.d_k, position, naive);
  }
  const AttentionStats stats = tq::measure_attention(in);
  const auto queries = static_cast<double>(in.query_heads * in.q_tokens);
  CHECK(stats.queries() == in.query_heads * in.q_tokens);
  CHECK(stats.pairs() == naive.pairs);
  CHECK(stats.logit_rmse() ==
        doctest::Approx(std::sqrt(naive.error_energy / static_cast<double>(naive.pairs)))
            .epsilon(1e-5));
  CHECK(stats.output_relative_error() ==
        doctest::Approx(std::sqrt(naive.output_error / naive.output_energy)).epsilon(1e-5));
  CHECK(is_near(stats.output_cosine_mean(), naive.cosine_sum / queries, 1e-6));
  REQUIRE(stats.compared_queries() == static_cast<std::int64_t>(naive.kl.size()));
  if (naive.kl.empty()) return;
  std::sort(naive.kl.begin(), naive.kl.end());
  double kl_sum = 0;
  for (double kl : naive.kl) kl_sum += kl;
  const auto compared = static_cast<double>(naive.kl.size());
  const std::size_t rank = static_cast<std::size_t>(std::ceil(0.99 * compared));
  CHECK(stats.kl_mean() == doctest::Approx(kl_sum / compared).epsilon(1e-5));
  CHECK(stats.kl_p99() == doctest::Approx(naive.kl[rank - 1]).epsilon(1e-5));
  CHECK(stats.kl_max() == doctest::Approx(naive.kl.back()).epsilon(1e-5));
  CHECK(is_near(stats.top1_agreement(), static_cast<double>(naive.agreed) / compared, 1e-12));
}

LogitComparison compare(const Doubles& logits, const Doubles& logits_hat) {
  Floats p(logits.size()), p_hat(logits.size());
  return tq::compare_logits(logits, logits_hat, p, p_hat);
}

}  // namespace

TEST_SUITE("measure/error_stats") {
  TEST_CASE("two rows by hand") {
    const ErrorStats stats = measure_rows(kHandX, kHandXHat, 2);
    CHECK(stats.rows() == 2);
    CHECK(stats.values() == 4);
    CHECK(stats.x_energy() == 29);
    CHECK(stats.x_hat_energy() == 13);
    CHECK(stats.error_energy() == 16);
    CHECK(is_near(stats.relative_mse(), 16.0 / 29, 1e-15));
    CHECK(is_near(stats.cosine_flattened(), 13 / std::sqrt(29.0 * 13), 1e-15));
    CHECK(is_near(stats.cosine_mean(), 0.8, 1e-15));
    CHECK(is_near(stats.cosine_min(), 0.6, 1e-7));
    CHECK(stats.cosine_p1() == stats.cosine_min());
    CHECK(stats.worst_row() == 0);
    CHECK(is_near(stats.norm_bias(), (0.6 + 1) / 2 - 1, 1e-15));
    CHECK(is_near(stats.bits_lost_to_shannon(3), 0.5 * std::log2(16.0 / 29 * 64), 1e-14));
  }

  TEST_CASE("a quantizer at Shannon's bound loses no bits; a fourfold error loses one") {
    const ErrorStats at_bound = measure_rows({1, 0}, {1, 0.25f}, 2);  // relative_mse = 4^-2
    CHECK(is_near(at_bound.bits_lost_to_shannon(2), 0, 1e-15));
    const ErrorStats fourfold = measure_rows({1, 0}, {1, 0.5f}, 2);
    CHECK(is_near(fourfold.bits_lost_to_shannon(2), 1, 1e-15));
    CHECK(is_near(fourfold.bits_lost_to_shannon(2.5), 1.5, 1e-15));
  }

  TEST_CASE("an exact copy is exact") {
    const Floats x = draw_normal(64 * 16, 7);
    const ErrorStats stats = measure_rows(x, x, 16);
    CHECK(stats.relative_mse() == 0);
    CHECK(stats.cosine_flattened() == 1);
    CHECK(stats.cosine_min() == 1);
    CHECK(stats.norm_bias() == 0);
    CHECK(stats.bits_lost_to_shannon(4) == -kInfinity);
  }

  TEST_CASE("control: zeros in place of x score cosine 0 and relative_mse 1") {
    const Floats x = draw_normal(32 * 8, 8);
    const ErrorStats stats = measure_rows(x, Floats(x.size(), 0), 8);
    CHECK(stats.relative_mse() == 1);
    CHECK(stats.cosine_flattened() == 0);
    CHECK(stats.cosine_mean() == 0);
    CHECK(stats.cosine_p1() == 0);
    CHECK(stats.norm_bias() == -1);
  }

  TEST_CASE("control: permuted rows lose the direction and keep the norms' sum") {
    const Floats x = draw_normal(256 * 64, 9);
    Floats shifted(x);
    std::rotate(shifted.begin(), shifted.begin() + 64, shifted.end());
    const ErrorStats stats = measure_rows(x, shifted, 64);
    // Independent rows: cosine has mean 0 and standard deviation 1/sqrt(64); over 256 rows the
    // mean's is 1/128.
    CHECK(std::abs(stats.cosine_mean()) < 5.0 / 128);
    CHECK(is_near(stats.relative_mse(), 2, 0.1));
    CHECK(is_near(stats.norm_bias(), 0, 0.03));
    CHECK(is_near(stats.x_hat_energy(), stats.x_energy(), 1e-9));
  }

  TEST_CASE(
      "zero rows: reproduced they are right, filled they are wrong, and no result is infinite") {
    const ErrorStats reproduced = measure_rows({0, 0, 1, 0}, {0, 0, 1, 0}, 2);
    CHECK(reproduced.cosine_mean() == 1);
    CHECK(reproduced.relative_mse() == 0);
    CHECK(reproduced.norm_bias() == 0);  // from the one row that has a norm

    const ErrorStats all_zero = measure_rows({0, 0}, {0, 0}, 2);
    CHECK(all_zero.relative_mse() == 0);
    CHECK(all_zero.cosine_flattened() == 1);
    CHECK(std::isnan(all_zero.norm_bias()));

    const ErrorStats filled = measure_rows({0, 0}, {0, 3}, 2);
    CHECK(filled.relative_mse() == 1);
    CHECK(filled.cosine_mean() == 0);
    CHECK(filled.cosine_flattened() == 0);
  }

  TEST_CASE("a scaled reconstruction: the cosine cannot see it, the norm bias and the error do") {
    const Floats x = draw_normal(100 * 32, 10);
    Floats shrunk(x);
    for (float& value : shrunk) value *= 0.75f;
    const ErrorStats stats = measure_rows(x, shrunk, 32);
    CHECK(is_near(stats.cosine_min(), 1, 1e-7));
    CHECK(is_near(stats.norm_bias(), -0.25, 1e-7));
    CHECK(is_near(stats.relative_mse(), 0.0625, 1e-7));
    CHECK(is_near(measure_rows({1, 2}, {-1, -2}, 2).cosine_mean(), -1, 1e-15));
  }

  TEST_CASE("the 1st percentile is the nearest rank") {
    // Row i of 200 has cosine (i + 1) / 200: rank ceil(0.01 x 200) = 2, of 201 rows it is 3.
    ErrorStats stats;
    for (int i = 199; i >= 0; --i) {
      const double cosine = (i + 1) / 200.0;
      const Floats x = {1, 0};
      const Floats x_hat = {static_cast<float>(cosine),
                            static_cast<float>(std::sqrt(1 - cosine * cosine))};
      stats.add_row(x, x_hat);
    }
    CHECK(is_near(stats.cosine_p1(), 2 / 200.0, 1e-6));
    CHECK(is_near(stats.cosine_min(), 1 / 200.0, 1e-6));
    CHECK(stats.worst_row() == 199);
    stats.add_row(Floats{1, 0}, Floats{1, 0});
    CHECK(is_near(stats.cosine_p1(), 3 / 200.0, 1e-6));

    const Floats values = {40, 10, 30, 20};
    CHECK(tq::nearest_rank_percentile(values, 0) == 10);
    CHECK(tq::nearest_rank_percentile(values, 25) == 10);
    CHECK(tq::nearest_rank_percentile(values, 26) == 20);
    CHECK(tq::nearest_rank_percentile(values, 99) == 40);
    CHECK(tq::nearest_rank_percentile(values, 100) == 40);
    CHECK(std::isnan(tq::nearest_rank_percentile({}, 50)));
    Floats hundred(100);
    for (std::size_t i = 0; i < 100; ++i) hundred[i] = static_cast<float>(100 - i);
    CHECK(tq::nearest_rank_percentile(hundred, 99) == 99);
  }

  TEST_CASE("merge equals one pass, in any grouping") {
    const Floats x = draw_normal(90 * 16, 11);
    const Floats x_hat = add(x, draw_normal(x.size(), 12, 0.3f));
    const ErrorStats whole = measure_rows(x, x_hat, 16);
    ErrorStats parts[3];
    for (std::size_t part = 0; part < 3; ++part) {
      parts[part].add_rows(x.data() + part * 480, x_hat.data() + part * 480, 30, 16);
    }
    ErrorStats left = parts[0];
    left.merge(parts[1]);
    left.merge(parts[2]);
    ErrorStats tail = parts[1];
    tail.merge(parts[2]);
    ErrorStats right = parts[0];
    right.merge(tail);
    right.merge(ErrorStats{});
    check_same_results(left, whole);
    check_same_results(right, whole);
    CHECK(whole.worst_row() >= 0);

    ErrorStats twice = whole;
    twice.merge(twice);
    CHECK(twice.rows() == 180);
    CHECK(twice.worst_row() == whole.worst_row());
    CHECK(is_near(twice.relative_mse(), whole.relative_mse(), 1e-14));
  }

  TEST_CASE("extreme magnitudes neither overflow nor vanish") {
    const float big = std::numeric_limits<float>::max();
    const float tiny = std::numeric_limits<float>::denorm_min();
    const ErrorStats large = measure_rows({big, big}, {big, -big}, 2);
    CHECK(is_near(large.relative_mse(), 2, 1e-15));
    CHECK(large.cosine_mean() == 0);
    const ErrorStats small = measure_rows({tiny, 0}, {2 * tiny, 0}, 2);
    CHECK(small.cosine_mean() == 1);
    CHECK(is_near(small.norm_bias(), 1, 1e-15));
  }

  TEST_CASE("nothing measured is NaN, and bad rows are refused by number and not counted") {
    const ErrorStats empty;
    CHECK(std::isnan(empty.relative_mse()));
    CHECK(std::isnan(empty.cosine_mean()));
    CHECK(std::isnan(empty.cosine_flattened()));
    CHECK(std::isnan(empty.cosine_p1()));
    CHECK(std::isnan(empty.cosine_min()));
    CHECK(std::isnan(empty.bits_lost_to_shannon(3)));
    CHECK(empty.worst_row() == -1);

    ErrorStats stats = measure_rows({1, 2}, {1, 2}, 1);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    CHECK(contains(error_of([&] { stats.add_row(Floats{1, nan}, Floats{1, 2}); }), "row 2"));
    CHECK(contains(error_of([&] {
                     stats.add_row(Floats{1, 2}, Floats{1, HUGE_VALF});
                   }),
                   "reconstruction"));
    CHECK(contains(error_of([&] { stats.add_row(Floats{1, 2}, Floats{1}); }), "2 values"));
    CHECK_FALSE(error_of([&] { stats.add_row(Floats{}, Floats{}); }).empty());
    CHECK_FALSE(error_of([&] { stats.add_rows(nullptr, nullptr, -1, 4); }).empty());
    CHECK_FALSE(error_of([&] { stats.add_rows(nullptr, nullptr, 1, 0); }).empty());
    CHECK(stats.rows() == 2);
    CHECK(stats.values() == 2);
    CHECK(stats.cosine_mean() == 1);
  }
}

TEST_SUITE("measure/attention_stats") {
  TEST_CASE("a known softmax: KL, top-1 and weights by hand") {
    // p = (1/4, 3/4), p_hat = (1/2, 1/2), whatever constant is added to the logits.
    Floats p(2), p_hat(2);
    const LogitComparison known =
        tq::compare_logits(Doubles{100, 100 + std::log(3.0)}, Doubles{-7, -7}, p, p_hat);
    CHECK(known.pairs == 2);
    CHECK(is_near(known.kl, 0.25 * std::log(0.5) + 0.75 * std::log(1.5), 1e-14));
    CHECK(is_near(known.error_energy, 107.0 * 107 + std::pow(107 + std::log(3.0), 2), 1e-9));
    CHECK_FALSE(known.same_top1);  // the tie goes to key 0
    CHECK(is_near(p[0], 0.25, 1e-7));
    CHECK(is_near(p[1], 0.75, 1e-7));
    CHECK(p_hat[0] == 0.5f);
    // The other way round KL differs: the order of its arguments matters.
    CHECK(is_near(compare({-7, -7}, {0, std::log(3.0)}).kl,
                  0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3), 1e-14));
    CHECK(compare({1, 5, 5}, {0, 9, 9}).same_top1);
    CHECK_FALSE(compare({1, 5, 5}, {0, 8, 9}).same_top1);
  }

  TEST_CASE("KL is finite where the softmax underflows, and clean where nothing changed") {
    const LogitComparison far = compare({0, -5000}, {-5000, 0});
    CHECK(is_near(far.kl, 5000, 1e-9));
    CHECK_FALSE(far.same_top1);
    const Doubles logits = {12345.678, 12344.1, -3.3, 12345.6780001};
    CHECK(compare(logits, logits).kl == 0);
    CHECK(compare(logits, logits).error_energy == 0);
    // A constant shift is invisible to the softmax; 1e-12 is rounding of logits of this size.
    Doubles shifted(logits);
    for (double& logit : shifted) logit += 0.1;
    CHECK(is_near(compare(logits, shifted).kl, 0, 1e-12));
    CHECK(compare(logits, shifted).kl >= 0);
    // A small change by its second order: p = (1/2, 1/2), one logit moved by e: KL = e^2/8.
    CHECK(compare({0, 0}, {0, 1e-4}).kl == doctest::Approx(1e-8 / 8).epsilon(1e-4));
  }

  TEST_CASE("two tokens by hand") {
    // Query 1 sees logits (0, ln 3) and, from k_hat, (0, 0); v = e0, e1. Query 0 sees its own key
    // alone.
    Problem problem;
    problem.shape = {.q_tokens = 2, .tokens = 2, .d_k = 1, .d_v = 2, .scale = 0.5};
    problem.q = {2, 2};
    problem.k = {0, static_cast<float>(std::log(3.0))};
    problem.k_hat = {1, 1};
    problem.v = problem.v_hat = {1, 0, 0, 1};
    const AttentionStats stats = tq::measure_attention(problem.inputs());
    CHECK(stats.queries() == 2);
    CHECK(stats.pairs() == 3);
    CHECK(stats.compared_queries() == 1);
    const double gap = std::log(3.0) - 1;
    CHECK(is_near(stats.logit_rmse(), std::sqrt((1 + 1 + gap * gap) / 3), 1e-7));
    CHECK(is_near(stats.kl_mean(), 0.25 * std::log(0.5) + 0.75 * std::log(1.5), 1e-7));
    CHECK(is_near(stats.kl_max(), stats.kl_mean(), 1e-7));
    CHECK(stats.kl_p99() == stats.kl_max());
    CHECK(stats.top1_agreement() == 0);
    // o = (1,0), (1/4,3/4); o_hat = (1,0), (1/2,1/2): error 1/8, energy 1 + 10/16.
    CHECK(is_near(stats.output_relative_error(), std::sqrt(0.125 / 1.625), 1e-7));
    CHECK(is_near(stats.output_cosine_mean(), (1 + 0.5 / std::sqrt(0.625 * 0.5)) / 2, 1e-7));
  }

  TEST_CASE("a single token: only its logit and its value can differ") {
    Problem problem = draw_problem(3, 1, 1, 4, 2);
    problem.k_hat.assign(4, 0);
    problem.v_hat = problem.v;
    const AttentionStats stats = tq::measure_attention(problem.inputs());
    CHECK(stats.queries() == 3);
    CHECK(stats.pairs() == 3);
    CHECK(stats.compared_queries() == 0);
    CHECK(std::isnan(stats.kl_mean()));
    CHECK(std::isnan(stats.kl_p99()));
    CHECK(std::isnan(stats.kl_max()));
    CHECK(std::isnan(stats.top1_agreement()));
    CHECK(stats.logit_rmse() > 0.1);
    CHECK(stats.output_relative_error() == 0);
    CHECK(std::isnan(AttentionStats{}.logit_rmse()));
    CHECK(std::isnan(AttentionStats{}.output_relative_error()));
  }

  TEST_CASE("against a naive double loop") {
    SUBCASE("causal, several blocks of queries, the last one ragged") {
      check_against_naive(draw_problem(1, 150, 150, 16, 16));
    }
    SUBCASE("grouped queries, d_k and d_v unequal, last positions only") {
      check_against_naive(draw_problem(4, 70, 203, 24, 10));
    }
    SUBCASE("one query a head") { check_against_naive(draw_problem(5, 1, 37, 8, 3)); }
    SUBCASE("window 16") {
      Problem problem = draw_problem(2, 140, 160, 8, 8);
      problem.shape.window = 16;
      check_against_naive(problem);
      CHECK(tq::measure_attention(problem.inputs()).pairs() == 2 * 140 * 16);
    }
    SUBCASE("window over the first tokens, and wider than all") {
      Problem problem = draw_problem(1, 90, 90, 8, 8);
      problem.shape.window = 5;
      check_against_naive(problem);
      CHECK(tq::measure_attention(problem.inputs()).pairs() == 1 + 2 + 3 + 4 + 86 * 5);
      problem.shape.window = 1000;
      CHECK(tq::measure_attention(problem.inputs()).pairs() == 90 * 91 / 2);
    }
    SUBCASE("window 1 compares no softmax") {
      Problem problem = draw_problem(1, 20, 20, 8, 8);
      problem.shape.window = 1;
      check_against_naive(problem);
      CHECK(tq::measure_attention(problem.inputs()).compared_queries() == 0);
    }
    SUBCASE("soft cap 2, which bends these logits") {
      Problem problem = draw_problem(2, 66, 80, 16, 8);
      const double uncapped = tq::measure_attention(problem.inputs()).logit_rmse();
      problem.shape.softcap = 2.0;
      check_against_naive(problem);
      CHECK(tq::measure_attention(problem.inputs()).logit_rmse() < 0.95 * uncapped);
    }
    SUBCASE("soft cap and window together") {
      Problem problem = draw_problem(2, 100, 100, 12, 6);
      problem.shape.softcap = 1.5;
      problem.shape.window = 9;
      check_against_naive(problem);
    }
  }

  TEST_CASE("an identical cache is exact at any alignment, block and shape") {
    for (const std::int64_t q_tokens : {1, 2, 65, 130}) {
      const Problem problem = draw_problem(2, q_tokens, 131, 7, 5);
      Floats k(problem.k), v(problem.v);
      k.insert(k.begin(),
               0.0f);  // the copies start one float later, so they are aligned differently
      v.insert(v.begin(), 0.0f);
      AttentionInputs in = problem.inputs();
      in.k_hat = std::span<const float>(k).subspan(1);
      in.v_hat = std::span<const float>(v).subspan(1);
      const AttentionStats stats = tq::measure_attention(in);
      CHECK(stats.logit_rmse() == 0);
      CHECK(stats.kl_max() == 0);
      CHECK(stats.top1_agreement() == 1);
      CHECK(stats.output_relative_error() == 0);
      CHECK(stats.output_cosine_mean() == 1);
    }
  }

  TEST_CASE("keys alone and values alone: each replaced side shows where it acts") {
    const Problem problem = draw_problem(2, 60, 60, 16, 16);
    AttentionInputs values_only = problem.inputs();
    values_only.k_hat = values_only.k;
    const AttentionStats values = tq::measure_attention(values_only);
    CHECK(values.logit_rmse() == 0);
    CHECK(values.kl_max() == 0);
    // Weights are the same, so o - o_hat averages the noise of v_hat exactly as o averages v: ratio
    // 0.1.
    CHECK(is_near(values.output_relative_error(), 0.1, 0.015));
    AttentionInputs keys_only = problem.inputs();
    keys_only.v_hat = keys_only.v;
    const AttentionStats keys = tq::measure_attention(keys_only);
    // logit error = scale <q, noise>: 1.5 / sqrt(16) x sqrt(16) x 0.2.
    CHECK(is_near(keys.logit_rmse(), 0.3, 0.03));
    CHECK(keys.kl_mean() > 0.01);
    CHECK(keys.output_relative_error() > 0.05);
  }

  TEST_CASE("control: zero keys give the uniform softmax, zero values cosine 0") {
    Problem problem = draw_problem(1, 40, 40, 16, 8);
    std::fill(problem.k_hat.begin(), problem.k_hat.end(), 0.0f);
    std::fill(problem.v_hat.begin(), problem.v_hat.end(), 0.0f);
    check_against_naive([&] {
      Problem keys_only = problem;
      keys_only.v_hat = problem.v;
      return keys_only;
    }());
    const AttentionStats stats = tq::measure_attention(problem.inputs());
    CHECK(stats.kl_mean() > 0.3);
    CHECK(stats.top1_agreement() < 0.3);  // agrees only where key 0 was the top
    CHECK(stats.output_relative_error() == 1);
    CHECK(stats.output_cosine_mean() == 0);
  }

  TEST_CASE("control: permuted tokens lose the top key") {
    Problem problem = draw_problem(1, 100, 100, 32, 8);
    for (float& value : problem.q) value *= 3;
    problem.k_hat = problem.k;
    std::rotate(problem.k_hat.begin(), problem.k_hat.begin() + 32, problem.k_hat.end());
    const AttentionStats stats = tq::measure_attention(problem.inputs());
    CHECK(stats.top1_agreement() < 0.25);
    CHECK(stats.kl_mean() > 1);
  }

  TEST_CASE("a mean in the keys: the logits move, the softmax does not") {
    Problem problem = draw_problem(1, 30, 30, 8, 4);
    problem.k_hat = problem.k;
    for (std::size_t i = 0; i < problem.k_hat.size(); i += 8) problem.k_hat[i] += 4;
    problem.v_hat = problem.v;
    const AttentionStats stats = tq::measure_attention(problem.inputs());
    CHECK(stats.logit_rmse() > 1);
    CHECK(is_near(stats.kl_max(), 0, 1e-9));
    CHECK(stats.top1_agreement() == 1);
  }

  TEST_CASE("merge of heads equals one pass") {
    const Problem problem = draw_problem(3, 50, 64, 8, 4);
    const AttentionInputs all = problem.inputs();
    const AttentionStats whole = tq::measure_attention(all);
    AttentionStats merged;
    for (std::size_t head = 0; head < 3; ++head) {
      AttentionInputs one = all;
      one.query_heads = 1;
      one.q = all.q.subspan(head * 50 * 8, 50 * 8);
      merged.merge(tq::measure_attention(one));
    }
    CHECK(merged.queries() == whole.queries());
    CHECK(merged.pairs() == whole.pairs());
    CHECK(merged.compared_queries() == whole.compared_queries());
    CHECK(merged.top1_agreement() == whole.top1_agreement());
    CHECK(merged.kl_p99() == whole.kl_p99());
    CHECK(merged.kl_max() == whole.kl_max());
    CHECK(is_near(merged.kl_mean(), whole.kl_mean(), 1e-14));
    CHECK(is_near(merged.logit_rmse(), whole.logit_rmse(), 1e-14));
    CHECK(is_near(merged.output_relative_error(), whole.output_relative_error(), 1e-14));
    CHECK(is_near(merged.output_cosine_mean(), whole.output_cosine_mean(), 1e-14));
  }

  TEST_CASE("bad input is refused by name") {
    const Problem problem = draw_problem(2, 4, 8, 4, 2);
    const auto refusal = [](const AttentionInputs& in) {
      return error_of([&] { tq::measure_attention(in); });
    };
    CHECK(refusal(problem.inputs()).empty());
    AttentionInputs in = problem.inputs();
    in.v_hat = in.v_hat.first(15);
    CHECK(contains(refusal(in), "v_hat holds 15 values"));
    in = problem.inputs();
    in.q_tokens = 9;
    CHECK(contains(refusal(in), "q_tokens is 9: give 1..8"));
    in = problem.inputs();
    in.window = 0;
    CHECK(contains(refusal(in), "window"));
    in = problem.inputs();
    in.softcap = 0.0;
    CHECK(contains(refusal(in), "soft cap"));
    in = problem.inputs();
    in.scale = kInfinity;
    CHECK(contains(refusal(in), "scale"));
    in = problem.inputs();
    in.d_v = 0;
    CHECK_FALSE(refusal(in).empty());
    Problem broken = problem;
    broken.k_hat[4 * 5 + 3] = std::numeric_limits<float>::quiet_NaN();
    CHECK(contains(refusal(broken.inputs()), "k_hat row 5 index 3"));
    broken = problem;
    std::fill(broken.k.begin(), broken.k.end(), 1e30f);
    std::fill(broken.q.begin(), broken.q.end(), 1e30f);
    CHECK(contains(refusal(broken.inputs()), "query head 0, position 4"));
  }
}

TEST_SUITE("measure/key_health") {
  TEST_CASE("three keys by hand") {
    // Channels (1,1,1), (2,-2,0), (0,0,6): sums 3, 0, 6; energies 3, 8, 36; rms 1, 1.633, 3.464.
    KeyHealth health(3);
    health.add_rows(Floats{1, 2, 0, 1, -2, 0, 1, 0, 6});
    CHECK(health.tokens() == 3);
    CHECK(health.sums()[0] == 3);
    CHECK(health.sums()[1] == 0);
    CHECK(health.energies()[2] == 36);
    // T |mean|^2 = 3 (1 + 0 + 4) = 15, of 47.
    CHECK(is_near(health.mean_energy_share(), 15.0 / 47, 1e-15));
    CHECK(is_near(health.channel_rms_ratio(), std::sqrt(36.0 / 8), 1e-15));
    CHECK(health.loudest_channel() == 2);
  }

  TEST_CASE("the median of an even number of channels is the mean of the middle two") {
    KeyHealth health(4);
    health.add_rows(Floats{3, 1, 10, 2});
    CHECK(is_near(health.channel_rms_ratio(), 10 / 2.5, 1e-14));
    CHECK(health.loudest_channel() == 2);
    CHECK(is_near(health.mean_energy_share(), 1, 1e-15));  // a single token is its own mean
  }

  TEST_CASE("zero-mean keys have a share of about 1/T, biased keys near 1") {
    const Floats noise = draw_normal(1000 * 64, 21);
    KeyHealth zero_mean(64);
    zero_mean.add_rows(noise);
    // 1/T times chi-square(64)/64: standard deviation 0.18/T.
    CHECK(is_near(zero_mean.mean_energy_share() * 1000, 1, 0.9));
    CHECK(zero_mean.channel_rms_ratio() > 1);
    CHECK(zero_mean.channel_rms_ratio() < 1.15);
    KeyHealth biased(64);
    Floats shifted(noise);
    for (std::size_t i = 5; i < shifted.size(); i += 64) shifted[i] += 80;
    biased.add_rows(shifted);
    CHECK(is_near(biased.mean_energy_share(), 6400.0 / 6464, 2e-3));
    CHECK(biased.loudest_channel() == 5);
    CHECK(is_near(biased.channel_rms_ratio(), std::sqrt(6401.0), 2.5));
  }

  TEST_CASE("merge equals one pass") {
    const Floats keys = draw_normal(50 * 8, 22);
    KeyHealth whole(8), first(8), second(8);
    whole.add_rows(keys);
    first.add_rows(std::span<const float>(keys).first(20 * 8));
    second.add_rows(std::span<const float>(keys).subspan(20 * 8));
    first.merge(second);
    CHECK(first.tokens() == 50);
    CHECK(first.loudest_channel() == whole.loudest_channel());
    CHECK(is_near(first.mean_energy_share(), whole.mean_energy_share(), 1e-14));
    CHECK(is_near(first.channel_rms_ratio(), whole.channel_rms_ratio(), 1e-14));
    CHECK_FALSE(error_of([&] { first.merge(KeyHealth(9)); }).empty());
  }

  TEST_CASE("silent channels and refusals") {
    KeyHealth health(3);
    CHECK(std::isnan(health.mean_energy_share()));
    CHECK(std::isnan(health.channel_rms_ratio()));
    health.add_rows(Floats{0, 0, 0});
    CHECK(health.mean_energy_share() == 0);
    CHECK(health.channel_rms_ratio() == 1);
    health.add_rows(Floats{0, 2, 0});
    CHECK(health.channel_rms_ratio() == kInfinity);
    CHECK(contains(error_of([&] {
                     health.add_rows(Floats{0, 2, 0, 1, HUGE_VALF, 1});
                   }),
                   "token 3, channel 1"));
    CHECK_FALSE(error_of([&] { health.add_rows(Floats{0, 2}); }).empty());
    CHECK_FALSE(error_of([] { KeyHealth none(0); }).empty());
    CHECK(health.tokens() == 2);
  }
}
