// Attention statistics against values worked out by hand, and against a second, naive computation in double.
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

#include "tests/naive_attention.h"

namespace {

using namespace tq::test;
using tq::AttentionInputs;
using tq::AttentionStats;
using tq::LogitComparison;

LogitComparison compare(const Doubles& logits, const Doubles& logits_hat) {
  Floats p(logits.size()), p_hat(logits.size());
  return tq::compare_logits(logits, logits_hat, p, p_hat);
}

}  // namespace

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
    SUBCASE("the newest tokens exact, as a cache keeps them") {
      Problem problem = draw_problem(2, 140, 170, 12, 8);
      const double all_coded = tq::measure_attention(problem.inputs()).kl_mean();
      for (const std::int64_t recent : {1, 20, 64, 65}) {
        problem.shape.recent = recent;
        check_against_naive(problem);
      }
      const double window_of_65 = tq::measure_attention(problem.inputs()).kl_mean();
      CHECK(window_of_65 < 0.9 * all_coded);
      CHECK(window_of_65 > 0.1 * all_coded);
      problem.shape.window = 30;
      problem.shape.recent = 10;
      check_against_naive(problem);
      problem.shape.recent = 30;  // all that a query sees
      CHECK(tq::measure_attention(problem.inputs()).kl_max() == 0);
      CHECK(tq::measure_attention(problem.inputs()).output_relative_error() < 1e-6);
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
    in.recent = -1;
    CHECK(contains(refusal(in), "recent"));
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
