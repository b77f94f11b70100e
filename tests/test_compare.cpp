// Schemes by name, side by side, and bits given out where they pay.
#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "lib/error.h"
#include "lib/cache/scheme_words.h"
#include "lib/verify/plan_bits.h"

using namespace tq;

namespace {

/// Gaussian rows of two layers whose keys differ in energy, and queries.
class TwoLayers final : public KvSource {
 public:
  TwoLayers() {
    for (const int index : {0, 3}) {
      SourceLayer layer;
      layer.index = index;
      layer.kv_heads = 2;
      layer.tokens = 64;
      layer.k_dim = layer.v_dim = 32;
      layer.query_heads = 4;
      layer.q_tokens = 64;
      layer.attention_scale = 1 / std::sqrt(32.0);
      layers_.push_back(layer);
    }
  }
  std::string name() const override { return "two layers"; }
  const std::vector<SourceLayer>& layers() const override { return layers_; }
  std::vector<float> read_head(std::size_t layer, Part part, std::int64_t head) const override {
    std::mt19937 generator(static_cast<std::uint32_t>(100 * layer + 10 * static_cast<std::size_t>(part)) + static_cast<std::uint32_t>(head));
    std::normal_distribution<float> normal(0.0f, layer == 1 && part == Part::kKeys ? 3.0f : 1.0f);
    std::vector<float> rows(64 * 32);
    for (float& x : rows) x = normal(generator);
    return rows;
  }

 private:
  std::vector<SourceLayer> layers_;
};

std::string refusal(const std::string& name) {
  try {
    parse_scheme_choice(name);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "none";
}

}  // namespace

TEST_CASE("scheme names: every word sets its option, and what is not known is named") {
  const KvSchemeOptions o =
      *parse_scheme_choice("k3v2+center+outliers16:5+boundary2:8+sinks4+recent64+effort2+f16-norms+rht1").options;
  CHECK(o.k_bits == 3);
  CHECK(o.v_bits == 2);
  CHECK(o.center_keys);
  CHECK(o.outlier_channels == 16);
  CHECK(o.outlier_bits == 5);
  CHECK(o.boundary_layers == 2);
  CHECK(o.boundary_bits == 8);
  CHECK(o.sinks == 4);
  CHECK(o.recent == 64);
  CHECK(o.effort == 2);
  CHECK(o.norm == NormMode::kLeastSquares);
  CHECK(o.norm_dtype == DType::kF16);
  CHECK(o.rotation == RotationKind::kRht1);
  CHECK(parse_scheme_choice("tq3+qjl").options->qjl_keys);
  CHECK(parse_scheme_choice("k16v16").options->v_bits == 16);
  CHECK(parse_scheme_choice("k4v4+group32").options->group_values == 32);
  CHECK(!parse_scheme_choice("vllm:turboquant_4bit_nc").options);
  for (const char* bad : {"k4", "k9v4", "k4v0", "tq", "K4V4", "", "k4v4x", "k4v4+", "k4v4+sinks", "k4v4+recent-1", "k4v4+outliers4:5",
                          "k4v4+outliers32", "k4v4+outliers32:3", "k4v4+boundary1:12", "tq1+qjl", "q4_0+center", "q3_0", "k4v4+effort4", "k4v4+corrected+effort2"}) {
    CAPTURE(bad);
    CHECK(refusal(bad).find(std::string("scheme '") + bad) == 0);
  }
}

TEST_CASE("scheme words are what a scheme file keeps") {
  const char* const words = "rht1+least-squares+f16-norms+effort2+center+sinks4+recent64+group32";
  KvSchemeOptions options;
  read_scheme_words(words, "t", options);
  CHECK(format_scheme_words(options) == words);
  CHECK(format_scheme_words({}).empty());
}

TEST_CASE("a comparison orders schemes as theory does, at exact bytes, and marks those that nothing beats") {
  const TwoLayers source;
  const auto backend = make_cpu_backend();
  std::vector<SchemeChoice> choices;
  for (const char* name : {"k16v16", "k4v4", "k3v3", "k4v4+identity", "k3v3+corrected", "q8_0", "q4_0", "k4v4+recent32"}) {
    choices.push_back(parse_scheme_choice(name));
  }
  CompareOptions options;
  options.threads = 2;
  const CompareReport report = compare_schemes(source, choices, nullptr, *backend, options);
  const auto& s = report.schemes;
  CHECK(report.metric == "attention cost");
  const double values = 2 * 2 * 64;  // layers x heads x channels of K and V of a token
  CHECK(s[0].bytes_per_token == 2 * values);
  CHECK(s[1].bytes_per_token == values / 2 + 2 * 2 * 2 * 4);
  CHECK(s[5].bytes_per_token == values / 32 * 34);
  CHECK(s[7].bytes_per_token == doctest::Approx((s[0].bytes_per_token + s[1].bytes_per_token) / 2));
  CHECK(s[7].bytes_per_token_long == doctest::Approx(s[1].bytes_per_token + 32.0 / 32768 * (s[0].bytes_per_token - s[1].bytes_per_token)));
  CHECK(s[0].kl_mean == doctest::Approx(0.0).epsilon(1e-4));
  CHECK(s[1].k_relative_mse == doctest::Approx(0.0089).epsilon(0.1));
  CHECK(s[2].k_relative_mse / s[1].k_relative_mse == doctest::Approx(3.6).epsilon(0.15));
  CHECK(s[1].kl_mean < s[2].kl_mean);
  CHECK(s[7].kl_mean < s[1].kl_mean);
  CHECK(s[5].v_relative_mse < s[6].v_relative_mse / 50);
  int marked = 0;
  for (const SchemeNumbers& one : s) {
    bool beaten = false;
    for (const SchemeNumbers& other : s) {
      beaten |= other.bytes_per_token <= one.bytes_per_token && attention_cost(other) <= attention_cost(one) &&
                (other.bytes_per_token < one.bytes_per_token || attention_cost(other) < attention_cost(one));
    }
    CHECK(one.pareto == !beaten);
    marked += one.pareto ? 1 : 0;
  }
  CHECK(marked >= 3);
  CHECK(marked < static_cast<int>(s.size()));
  CompareOptions alone = options;
  alone.threads = 1;
  CHECK(compare_schemes(source, {choices[2]}, nullptr, *backend, alone).schemes[0].kl_mean == s[2].kl_mean);
}

TEST_CASE("a scheme that refuses the dims says so in its row") {
  class Odd final : public KvSource {
   public:
    Odd() {
      SourceLayer layer;
      layer.kv_heads = 1;
      layer.tokens = 16;
      layer.k_dim = layer.v_dim = 20;
      layers_.push_back(layer);
    }
    std::string name() const override { return "odd"; }
    const std::vector<SourceLayer>& layers() const override { return layers_; }
    std::vector<float> read_head(std::size_t, Part, std::int64_t) const override {
      std::vector<float> rows(16 * 20);
      for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = std::sin(static_cast<float>(i * i % 71));
      return rows;
    }
    std::vector<SourceLayer> layers_;
  };
  const auto report = compare_schemes(Odd(), {parse_scheme_choice("q8_0"), parse_scheme_choice("k4v4")}, nullptr, *make_cpu_backend(), {});
  CHECK(report.schemes[0].refused.find("32") != std::string::npos);
  CHECK(report.schemes[1].refused.empty());
  CHECK(!report.schemes[1].has_attention);
  CHECK(report.metric == "relative MSE");
  CHECK(report.schemes[1].pareto);
  CHECK(!report.schemes[0].pareto);
}

TEST_CASE("bits go where they save most, as an exhaustive search finds") {
  std::vector<LayerPlan> layers(2);
  std::vector<std::array<PartCosts, 2>> bytes(2);
  const double scale_of[2][2] = {{1.0, 0.02}, {0.3, 0.5}};
  for (std::size_t i = 0; i < 2; ++i) {
    for (std::size_t w = 0; w < layers[i].k_cost.size(); ++w) {
      layers[i].k_cost[w] = scale_of[i][0] * std::pow(0.25, static_cast<double>(w));
      layers[i].v_cost[w] = scale_of[i][1] * std::pow(0.25, static_cast<double>(w));
      bytes[i][0][w] = bytes[i][1][w] = 4 + 4 * static_cast<double>(w + 2);
    }
  }
  const auto cost = [&](const std::array<int, 4>& b) {
    return layers[0].k_cost[static_cast<std::size_t>(b[0])] + layers[0].v_cost[static_cast<std::size_t>(b[1])] +
           layers[1].k_cost[static_cast<std::size_t>(b[2])] + layers[1].v_cost[static_cast<std::size_t>(b[3])];
  };
  for (const double budget : {48.0, 60.0, 75.0, 100.0}) {
    PlanOptions options;
    options.bytes_per_token = budget;
    const double taken = allocate_bits(layers, bytes, options, 1.0);
    CHECK(taken <= budget);
    double best = 1e9;
    for (int code = 0; code < 2401; ++code) {
      const std::array<int, 4> b = {code % 7, code / 7 % 7, code / 49 % 7, code / 343};
      if (4.0 * (4 + 8 + b[0] + b[1] + b[2] + b[3] - 0.0) - 0.0 > budget) continue;
      best = std::min(best, cost(b));
    }
    CHECK(cost({layers[0].k_bits - 2, layers[0].v_bits - 2, layers[1].k_bits - 2, layers[1].v_bits - 2}) == doctest::Approx(best));
  }
  PlanOptions limit;
  limit.max_kld = 0.05;
  allocate_bits(layers, bytes, limit, 1.0);
  const double found = cost({layers[0].k_bits - 2, layers[0].v_bits - 2, layers[1].k_bits - 2, layers[1].v_bits - 2});
  CHECK(found <= 0.05);
  CHECK(found > 0.05 / 4);
  PlanOptions poor;
  poor.bytes_per_token = 47.0;
  CHECK_THROWS_AS(allocate_bits(layers, bytes, poor, 1.0), Error);
  PlanOptions strict;
  strict.max_kld = 1e-9;
  CHECK_THROWS_AS(allocate_bits(layers, bytes, strict, 1.0), Error);
}

TEST_CASE("a plan gives the layer with the louder keys more bits, keeps its budget, and beats equal bits") {
  const TwoLayers source;
  PlanOptions options;
  options.threads = 2;
  options.bytes_per_token = 2 * 2 * 2 * (32 * 3.5 / 8 + 4);
  const PlanReport report = plan_bits(source, nullptr, *make_cpu_backend(), options);
  CHECK(report.layers[1].k_bits > report.layers[0].k_bits);
  CHECK(report.planned.bytes_per_token <= *options.bytes_per_token);
  CHECK(report.planned.bytes_per_token > *options.bytes_per_token - 2 * 2 * 4 - 1);
  CHECK(report.uniform.name == "k3v3");
  CHECK(report.planned_cost < report.uniform_cost);
  CHECK(report.predicted == doctest::Approx(report.planned_cost).epsilon(0.35));
  CHECK(report.scheme.layers.at(3).k == std::vector<int>{report.layers[1].k_bits});
}
