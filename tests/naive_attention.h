// Attention statistics a second time: by the definition, one pair at a time, in double.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>

#include "lib/measure/attention_stats.h"
#include "tests/measure_helpers.h"

namespace tq::test {

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

inline Problem draw_problem(std::int64_t heads, std::int64_t q_tokens, std::int64_t tokens,
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

inline double naive_dot(const float* a, const float* b, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

/// `recent`: so many of the newest keys are those of in.k, whatever `keys` has.
inline Doubles naive_logits(const AttentionInputs& in, const float* query, std::span<const float> keys,
                     std::int64_t position, std::int64_t recent = 0) {
  Doubles logits;
  for (std::int64_t t = 0; t <= position; ++t) {
    if (in.window && position - t >= *in.window) continue;
    const std::span<const float> read = position - t < recent ? in.k : keys;
    double logit = naive_dot(query, read.data() + t * in.d_k, in.d_k) * in.scale;
    if (in.softcap) logit = *in.softcap * std::tanh(logit / *in.softcap);
    logits.push_back(logit);
  }
  return logits;
}

inline Doubles naive_softmax(const Doubles& logits) {
  Doubles p;
  double sum = 0;
  for (double logit : logits) sum += std::exp(logit);
  for (double logit : logits) p.push_back(std::exp(logit) / sum);
  return p;
}

inline std::size_t first_largest(const Doubles& values) {
  return static_cast<std::size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

inline void add_naive_query(const AttentionInputs& in, const float* query, std::int64_t position,
                     NaiveAttention& result) {
  const Doubles logits = naive_logits(in, query, in.k, position);
  const Doubles logits_hat = naive_logits(in, query, in.k_hat, position, in.recent);
  const Doubles p = naive_softmax(logits);
  const Doubles p_hat = naive_softmax(logits_hat);
  double kl = 0;
  Doubles o(static_cast<std::size_t>(in.d_v)), o_hat(o);
  for (std::size_t i = 0; i < p.size(); ++i) {
    result.error_energy += std::pow(logits[i] - logits_hat[i], 2);
    kl += p[i] * std::log(p[i] / p_hat[i]);
    const std::size_t t = static_cast<std::size_t>(position) + 1 - p.size() + i;
    const std::span<const float> v_hat = position - static_cast<std::int64_t>(t) < in.recent ? in.v : in.v_hat;
    for (std::size_t c = 0; c < o.size(); ++c) {
      o[c] += p[i] * static_cast<double>(in.v[t * o.size() + c]);
      o_hat[c] += p_hat[i] * static_cast<double>(v_hat[t * o.size() + c]);
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

inline void check_against_naive(const Problem& problem) {
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

}  // namespace tq::test
