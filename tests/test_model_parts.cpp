// The parts of the forward pass against plain loops in double: products, attention, RoPE, routing.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <random>
#include <vector>

#include "lib/model/attention.h"
#include "lib/model/matmul.h"
#include "lib/model/rope.h"

namespace {

using Floats = std::vector<float>;

Floats gauss(std::size_t count, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Floats out(count);
  for (float& x : out) x = normal(generator);
  return out;
}

TEST_CASE("products are right for every target, shape and stride") {
  struct Case {
    std::int64_t tokens, columns, depth, extra;
  };
  for (const tq::MatmulKernel* kernel : tq::matmul_kernels()) {
    CAPTURE(kernel->name);
    for (const Case c : {Case{1, 1, 1, 0}, {13, 33, 17, 3}, {12, 32, 512, 0}, {5, 130, 700, 1}, {25, 7, 1030, 2}, {2, 64, 0, 0}}) {
      CAPTURE(c.tokens);
      CAPTURE(c.columns);
      CAPTURE(c.depth);
      const std::int64_t x_stride = c.depth + c.extra, row_stride = c.depth + c.extra, y_stride = c.columns + c.extra;
      const Floats x = gauss(static_cast<std::size_t>(c.tokens * x_stride + 1), 1);
      const Floats w = gauss(static_cast<std::size_t>(c.columns * row_stride + 1), 2);
      Floats turned(static_cast<std::size_t>(c.depth * y_stride + 1));  // w as [depth][columns]
      for (std::int64_t r = 0; r < c.columns; ++r) {
        for (std::int64_t k = 0; k < c.depth; ++k) turned[static_cast<std::size_t>(k * y_stride + r)] = w[static_cast<std::size_t>(r * row_stride + k)];
      }
      for (const bool add : {false, true}) {
        Floats by_rows(static_cast<std::size_t>(c.tokens * y_stride), 7.0f), by_columns = by_rows;
        kernel->by_rows({x.data(), x_stride, c.tokens, w.data(), row_stride, c.columns, c.depth, by_rows.data(), y_stride, add});
        kernel->by_columns({x.data(), x_stride, c.tokens, turned.data(), y_stride, c.columns, c.depth, by_columns.data(), y_stride, add});
        double worst = 0;
        bool spared = true;
        for (std::int64_t t = 0; t < c.tokens; ++t) {
          for (std::int64_t r = 0; r < y_stride; ++r) {
            const auto at = static_cast<std::size_t>(t * y_stride + r);
            if (r >= c.columns) {
              spared &= by_rows[at] == 7.0f && by_columns[at] == 7.0f;
              continue;
            }
            double sum = add ? 7.0 : 0.0;
            for (std::int64_t k = 0; k < c.depth; ++k) {
              sum += static_cast<double>(x[static_cast<std::size_t>(t * x_stride + k)]) * static_cast<double>(w[static_cast<std::size_t>(r * row_stride + k)]);
            }
            worst = std::max({worst, std::fabs(sum - static_cast<double>(by_rows[at])), std::fabs(sum - static_cast<double>(by_columns[at]))});
          }
        }
        CHECK(spared);  // what lies between the rows of y
        CHECK(worst <= 4e-6 * std::sqrt(static_cast<double>(c.depth) + 1.0) * std::sqrt(static_cast<double>(c.depth) + 50.0));
      }
    }
  }
}

struct Shape {
  std::int64_t heads = 4, kv_heads = 2, tokens = 75, k_dim = 12, v_dim = 10;
};

struct Cache {
  Floats q, k, v;
};

Cache make_cache(const Shape& s, std::uint32_t seed) {
  return {gauss(static_cast<std::size_t>(s.heads * s.tokens * s.k_dim), seed), gauss(static_cast<std::size_t>(s.kv_heads * s.tokens * s.k_dim), seed + 1),
          gauss(static_cast<std::size_t>(s.kv_heads * s.tokens * s.v_dim), seed + 2)};
}

/// The same by the definition, in double.
std::vector<double> attend_plainly(const tq::AttentionTask& a) {
  std::vector<double> out(static_cast<std::size_t>(a.tokens * a.heads * a.v_dim));
  for (std::int64_t h = 0; h < a.heads; ++h) {
    const std::int64_t kv = h / (a.heads / a.kv_heads);
    for (std::int64_t t = 0; t < a.tokens; ++t) {
      const std::int64_t first = a.window ? std::max<std::int64_t>(0, t - *a.window + 1) : 0;
      double sum = a.sinks.empty() ? 0.0 : std::exp(static_cast<double>(a.sinks[static_cast<std::size_t>(h)]));
      std::vector<double> mixed(static_cast<std::size_t>(a.v_dim));
      for (std::int64_t s = first; s <= t; ++s) {
        const bool recent = t - s < a.recent;
        const float* k = (recent ? a.recent_k : a.k).data() + (kv * a.tokens + s) * a.k_dim;
        const float* v = (recent ? a.recent_v : a.v).data() + (kv * a.tokens + s) * a.v_dim;
        double logit = 0;
        for (std::int64_t i = 0; i < a.k_dim; ++i) logit += static_cast<double>(a.q[static_cast<std::size_t>((h * a.tokens + t) * a.k_dim + i)]) * static_cast<double>(k[i]);
        logit *= a.scale;
        if (a.softcap) logit = *a.softcap * std::tanh(logit / *a.softcap);
        sum += std::exp(logit);
        for (std::int64_t i = 0; i < a.v_dim; ++i) mixed[static_cast<std::size_t>(i)] += std::exp(logit) * static_cast<double>(v[i]);
      }
      for (std::int64_t i = 0; i < a.v_dim; ++i) out[static_cast<std::size_t>((t * a.heads + h) * a.v_dim + i)] = mixed[static_cast<std::size_t>(i)] / sum;
    }
  }
  return out;
}

void check_attention(const tq::AttentionTask& task) {
  const Floats got = tq::attend(task, 2);
  CHECK(tq::attend(task, 1) == got);  // whatever the threads
  const std::vector<double> expected = attend_plainly(task);
  REQUIRE(got.size() == expected.size());
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::fabs(static_cast<double>(got[i]) - expected[i]));
  CHECK(worst < 5e-6);
}

TEST_CASE("attention: causal, with windows, soft caps, sinks, and an exact recent part") {
  const Shape s;
  const Cache cache = make_cache(s, 10), exact = make_cache(s, 20);
  const Floats sinks = {0.5f, -1.0f, 4.0f, -30.0f};
  tq::AttentionTask task{cache.q, cache.k, cache.v, s.heads, s.kv_heads, s.tokens, s.k_dim, s.v_dim, 0.3};
  check_attention(task);
  for (const std::int64_t window : {1, 5, 64, 200}) {
    task.window = window;
    check_attention(task);
  }
  task.softcap = 1.5;
  task.sinks = sinks;
  check_attention(task);
  task.window = 20;
  task.recent_k = exact.k;
  task.recent_v = exact.v;
  for (const std::int64_t recent : {1, 3, 20, 100}) {
    task.recent = recent;
    check_attention(task);
  }
  task.window.reset();
  task.recent = 7;
  check_attention(task);
}

TEST_CASE("RoPE: what turns, in which pairs, and by how much") {
  tq::RopeConfig config;
  config.dims = 4;
  config.theta = 100.0;
  const tq::RopeTable table = tq::make_rope_table(config, 5);
  const Floats start = {1, 2, 3, 4, 5, 6};
  const auto turned = [&](tq::RopePairs pairs) {
    Floats x = start;
    tq::apply_rope(table, pairs, 3, 1, 6, x.data());
    return x;
  };
  const double fast = 3.0, slow = 0.3;  // position 3; inv_freq 1 and 1/10
  const auto check = [](const Floats& x, const std::vector<double>& expected) {
    for (std::size_t i = 0; i < expected.size(); ++i) CHECK(static_cast<double>(x[i]) == doctest::Approx(expected[i]).epsilon(1e-5));
  };
  const auto first = [](double a, double b, double angle) { return a * std::cos(angle) - b * std::sin(angle); };
  const auto second = [](double a, double b, double angle) { return b * std::cos(angle) + a * std::sin(angle); };
  check(turned(tq::RopePairs::kHalves), {first(1, 3, fast), first(2, 4, slow), second(1, 3, fast), second(2, 4, slow), 5, 6});
  check(turned(tq::RopePairs::kNeighbours), {first(1, 2, fast), second(1, 2, fast), first(3, 4, slow), second(3, 4, slow), 5, 6});
  check(turned(tq::RopePairs::kNeighboursToHalves), {first(1, 2, fast), first(3, 4, slow), second(1, 2, fast), second(3, 4, slow), 5, 6});
}

TEST_CASE("RoPE scalings: frequencies at a long and a short prompt") {
  tq::RopeConfig config;
  config.dims = 8;
  config.theta = 10000.0;
  config.context = 100;
  config.original_context = 50;
  config.factor = 4.0;
  double factor = 0;
  const auto frequencies = [&](tq::RopeKind kind, std::int64_t tokens) {
    config.kind = kind;
    return tq::rope_frequencies(config, tokens, factor);
  };
  const Floats plain = frequencies(tq::RopeKind::kDefault, 10);
  CHECK(plain[1] == doctest::Approx(0.1));
  CHECK(frequencies(tq::RopeKind::kLinear, 10)[1] == doctest::Approx(0.025));
  CHECK(frequencies(tq::RopeKind::kDynamic, 100) == plain);  // up to the context nothing changes
  const double theta = 10000.0 * std::pow(4.0 * 200 / 100 - 3.0, 8.0 / 6.0);
  CHECK(frequencies(tq::RopeKind::kDynamic, 200)[2] == doctest::Approx(std::pow(theta, -0.5)));
  config.short_factor = {1, 1, 2, 2};
  config.long_factor = {4, 4, 4, 8};
  CHECK(frequencies(tq::RopeKind::kLongRope, 50)[3] == doctest::Approx(0.001 / 2));
  CHECK(frequencies(tq::RopeKind::kLongRope, 51)[3] == doctest::Approx(0.001 / 8));
  CHECK(factor == doctest::Approx(std::sqrt(1.0 + std::log(4.0) / std::log(50.0))));
  const Floats yarn = frequencies(tq::RopeKind::kYarn, 10);
  CHECK(factor == doctest::Approx(0.1 * std::log(4.0) + 1.0));
  CHECK(yarn[0] == plain[0]);                            // fast channels stay
  CHECK(yarn[3] == doctest::Approx(0.001 / 4));          // slow ones are interpolated
  const Floats llama3 = frequencies(tq::RopeKind::kLlama3, 10);
  CHECK(llama3[0] == plain[0]);                          // 6 positions a turn
  CHECK(llama3[3] == doctest::Approx(0.001 / 4));        // 6283 positions a turn
}

}  // namespace
