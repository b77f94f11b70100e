#include "lib/verify/plan_bits.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <nlohmann/json.hpp>
#include <numeric>

#include "lib/error.h"
#include "lib/measure/attention_stats.h"
#include "lib/parallel.h"

namespace tq {
namespace {

constexpr int kProbeBits = 3;
constexpr std::size_t kWidths = kMaxBits - kPlanMinBits + 1;

std::size_t at_bits(int bits) { return static_cast<std::size_t>(bits - kPlanMinBits); }

/// A source of which one layer is seen: what measure_scheme() is then about.
class OneLayer final : public KvSource {
 public:
  OneLayer(const KvSource& all, std::size_t layer) : all_(all), layer_(layer), layers_{all.layers()[layer]} {}
  std::string name() const override { return all_.name(); }
  const std::vector<SourceLayer>& layers() const override { return layers_; }
  std::vector<float> read_head(std::size_t, Part part, std::int64_t head) const override { return all_.read_head(layer_, part, head); }

 private:
  const KvSource& all_;
  std::size_t layer_;
  std::vector<SourceLayer> layers_;
};

SchemeChoice choice_of(KvSchemeOptions options, int k_bits, int v_bits) {
  options.k_bits = k_bits;
  options.v_bits = v_bits;
  return {fmt::format("k{}v{}", k_bits, v_bits), options};
}

/// The bits of each layer, as a scheme.
KvSchemeOptions with_layer_bits(KvSchemeOptions options, const std::vector<LayerPlan>& layers) {
  options.layers.clear();
  for (const LayerPlan& layer : layers) options.layers[layer.index] = {{layer.k_bits}, {layer.v_bits}};
  return options;
}

/// Relative MSE, or cost in a dump, of both parts of a layer at every width.
struct LayerMeasure {
  PartCosts k_mse{}, v_mse{}, k_cost{}, v_cost{};
  std::array<PartCosts, 2> bytes{};  ///< a token, of K and of V
};

LayerMeasure measure_widths(const KvSource& source, std::size_t layer, const Backend& backend, const PlanOptions& options, bool attention) {
  const OneLayer one(source, layer);
  CompareOptions run;
  run.attention_queries = options.attention_queries;
  run.attention = options.attention;
  LayerMeasure out;
  for (int bits = kPlanMinBits; bits <= kMaxBits; ++bits) {
    const std::size_t i = at_bits(bits);
    const SchemeNumbers k = measure_scheme(one, choice_of(options.scheme, bits, kExactBits), backend, run);
    const SchemeNumbers v = measure_scheme(one, choice_of(options.scheme, kExactBits, bits), backend, run);
    for (const SchemeNumbers* n : {&k, &v}) {
      if (!n->refused.empty()) throw Error(n->refused);
    }
    const SourceLayer& shape = one.layers().front();
    const auto exact_k = static_cast<double>(2 * shape.kv_heads * shape.k_dim);
    const auto exact_v = static_cast<double>(2 * shape.kv_heads * shape.v_dim);
    out.bytes[0][i] = k.bytes_per_token - exact_v;
    out.bytes[1][i] = v.bytes_per_token - exact_k;
    out.k_mse[i] = k.k_relative_mse;
    out.v_mse[i] = v.v_relative_mse;
    if (!attention) continue;
    out.k_cost[i] = k.kl_mean;
    out.v_cost[i] = 0.5 * v.output_error * v.output_error;
  }
  return out;
}

/// Output KL with one part of one layer at the probe's bits.
double probe(const ModelEffect& effect, const KvSchemeOptions& base, int layer, bool keys, const Backend& backend, int threads) {
  SchemeChoice choice = choice_of(base, kExactBits, kExactBits);
  choice.options->layers[layer] = keys ? LayerBits{{kProbeBits}, {}} : LayerBits{{}, {kProbeBits}};
  return effect.measure(make_choice_hook(choice, backend, threads)).tokens.kl.estimate;
}

double cost_of(const SchemeNumbers& n, bool model) {
  if (!n.refused.empty()) throw Error(n.refused);
  return model ? n.effect->tokens.kl.estimate : attention_cost(n);
}

/// Where queries see one key, or there are no predictions, nothing has a cost.
void check_costs(const PlanReport& report) {
  const auto is_finite = [](double cost) { return std::isfinite(cost); };
  for (const LayerPlan& layer : report.layers) {
    const bool finite = std::all_of(layer.k_cost.begin(), layer.k_cost.end(), is_finite) && std::all_of(layer.v_cost.begin(), layer.v_cost.end(), is_finite);
    if (finite) continue;
    throw Error(fmt::format("{}: layer {}: there is nothing to measure a cost on; give more tokens", report.source, layer.index));
  }
}

nlohmann::ordered_json measured_json(const SchemeNumbers& n, double cost) {
  if (!n.refused.empty()) return nullptr;
  nlohmann::ordered_json json = {{"scheme", n.name}, {"bytes_per_token", n.bytes_per_token}, {"cost", cost}};
  if (n.effect) json["perplexity_ratio"] = n.effect->tokens.perplexity_ratio.estimate;
  return json;
}

}  // namespace

double allocate_bits(std::vector<LayerPlan>& layers, const std::vector<std::array<PartCosts, 2>>& bytes, const PlanOptions& options,
                     double scale) {
  double total_bytes = 0, cost = 0, most_bytes = 0, least_cost = 0;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    layers[i].k_bits = layers[i].v_bits = kPlanMinBits;
    total_bytes += bytes[i][0].front() + bytes[i][1].front();
    most_bytes += bytes[i][0].back() + bytes[i][1].back();
    cost += scale * (layers[i].k_cost.front() + layers[i].v_cost.front());
    least_cost += scale * (layers[i].k_cost.back() + layers[i].v_cost.back());
  }
  if (options.bytes_per_token && total_bytes > *options.bytes_per_token) {
    throw Error(fmt::format("--bytes-per-token {:g}: 2 bits everywhere take {:g}, and a plan gives no fewer; {} bits take {:g}",
                            *options.bytes_per_token, total_bytes, kMaxBits, most_bytes));
  }
  if (options.max_kld && least_cost > *options.max_kld) {
    throw Error(fmt::format("--max-kld {:g}: {} bits everywhere are predicted to cost {:.4g} still", *options.max_kld, kMaxBits, least_cost));
  }
  while (options.bytes_per_token || cost > *options.max_kld) {
    double best_gain = -1;
    std::size_t best_layer = 0, best_part = 0;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      for (const std::size_t part : {0u, 1u}) {
        const int bits = part == 0 ? layers[i].k_bits : layers[i].v_bits;
        if (bits == kMaxBits) continue;
        const PartCosts& costs = part == 0 ? layers[i].k_cost : layers[i].v_cost;
        const double more = bytes[i][part][at_bits(bits) + 1] - bytes[i][part][at_bits(bits)];
        if (options.bytes_per_token && total_bytes + more > *options.bytes_per_token) continue;
        const double gain = std::max(0.0, costs[at_bits(bits)] - costs[at_bits(bits) + 1]) / std::max(more, 1e-9);
        if (gain > best_gain) best_gain = gain, best_layer = i, best_part = part;
      }
    }
    if (best_gain < 0) break;
    LayerPlan& layer = layers[best_layer];
    int& bits = best_part == 0 ? layer.k_bits : layer.v_bits;
    const PartCosts& costs = best_part == 0 ? layer.k_cost : layer.v_cost;
    cost -= scale * (costs[at_bits(bits)] - costs[at_bits(bits) + 1]);
    total_bytes += bytes[best_layer][best_part][at_bits(bits) + 1] - bytes[best_layer][best_part][at_bits(bits)];
    ++bits;
  }
  return total_bytes;
}

PlanReport plan_bits(const KvSource& source, const ModelEffect* effect, const Backend& backend, const PlanOptions& options) {
  PlanReport report;
  report.source = source.name();
  report.metric = effect != nullptr ? "output KL" : "attention cost";
  const std::size_t count = source.layers().size();
  for (const SourceLayer& layer : source.layers()) {
    if (effect == nullptr && layer.query_heads == 0) {
      throw Error(fmt::format("{}: layer {} has no queries, and a plan rests on attention; capture q.{} as well, or use --model",
                              source.name(), layer.index, layer.index));
    }
    report.layers.push_back({layer.index, {}, {}});
  }
  const std::size_t all = count * (effect != nullptr ? 3 : 1);
  std::size_t done = 0;
  std::mutex mutex;
  const auto step = [&] {
    const std::lock_guard lock(mutex);
    if (options.progress) options.progress(++done, all);
  };
  std::vector<LayerMeasure> measures(count);
  parallel_for(options.threads, static_cast<std::int64_t>(count), [&](std::int64_t i) {
    const auto layer = static_cast<std::size_t>(i);
    measures[layer] = measure_widths(source, layer, backend, options, effect == nullptr);
    step();
  });
  std::vector<std::array<PartCosts, 2>> bytes;
  for (std::size_t i = 0; i < count; ++i) {
    LayerPlan& layer = report.layers[i];
    const LayerMeasure& m = measures[i];
    bytes.push_back(m.bytes);
    layer.k_cost = m.k_cost;
    layer.v_cost = m.v_cost;
    if (effect == nullptr) continue;
    const double k = probe(*effect, options.scheme, layer.index, true, backend, options.threads);
    step();
    const double v = probe(*effect, options.scheme, layer.index, false, backend, options.threads);
    step();
    for (std::size_t w = 0; w < kWidths; ++w) {
      layer.k_cost[w] = k * m.k_mse[w] / m.k_mse[at_bits(kProbeBits)];
      layer.v_cost[w] = v * m.v_mse[w] / m.v_mse[at_bits(kProbeBits)];
    }
  }
  check_costs(report);
  const double scale = effect != nullptr ? 1.0 : 1.0 / static_cast<double>(count);
  const double taken = allocate_bits(report.layers, bytes, options, scale);
  for (const LayerPlan& layer : report.layers) {
    report.predicted += scale * (layer.k_cost[at_bits(layer.k_bits)] + layer.v_cost[at_bits(layer.v_bits)]);
  }
  report.scheme = with_layer_bits(options.scheme, report.layers);

  int equal = kMaxBits;
  const auto bytes_of = [&](int bits) {
    return std::accumulate(bytes.begin(), bytes.end(), 0.0, [&](double sum, const std::array<PartCosts, 2>& b) { return sum + b[0][at_bits(bits)] + b[1][at_bits(bits)]; });
  };
  while (equal > kPlanMinBits && bytes_of(equal) > taken * (1 + 1e-12)) --equal;
  CompareOptions run;
  run.threads = options.threads;
  run.attention_queries = options.attention_queries;
  run.attention = options.attention;
  const std::vector<SchemeChoice> choices = {{"plan", report.scheme}, choice_of(options.scheme, equal, equal)};
  const CompareReport compared = compare_schemes(source, choices, effect, backend, run);
  report.planned = compared.schemes[0];
  report.uniform = compared.schemes[1];
  report.planned_cost = cost_of(report.planned, effect != nullptr);
  report.uniform_cost = cost_of(report.uniform, effect != nullptr);
  return report;
}

std::string format_plan_json(const PlanReport& report) {
  using Json = nlohmann::ordered_json;
  Json json = {{"schema_version", 1}, {"source", report.source}, {"metric", report.metric}, {"predicted", report.predicted},
               {"planned", measured_json(report.planned, report.planned_cost)},
               {"uniform", measured_json(report.uniform, report.uniform_cost)},
               {"scheme", Json::parse(format_scheme_file(report.scheme))}, {"layers", Json::array()}};
  for (const LayerPlan& layer : report.layers) {
    json["layers"].push_back({{"layer", layer.index}, {"k_bits", layer.k_bits}, {"v_bits", layer.v_bits}, {"k_cost", layer.k_cost}, {"v_cost", layer.v_cost}});
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace tq
