#include "lib/verify/report_json.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lib/measure/block_bootstrap.h"

namespace tq {
namespace {

using Json = nlohmann::ordered_json;

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json part_json(const PartNumbers& n) {
  Json json = {{"bits", n.bits},
               {"average_bits", number(n.average_bits)},
               {"dim", n.dim},
               {"rows", n.rows},
               {"distortion", number(n.distortion)},
               {"relative_mse", number(n.relative_mse)},
               {"expected_mse", number(n.expected_mse)},
               {"mse_ratio", number(n.mse_ratio)},
               {"mse_ratio_other_seeds",
                {{"mean", number(n.other_seeds_mean)}, {"min", number(n.other_seeds_min)}, {"max", number(n.other_seeds_max)}}},
               {"bound_ratio", number(n.bound_ratio)},
               {"bits_lost_to_shannon", number(n.bits_lost)},
               {"cosine_flattened", number(n.cosine_flattened)},
               {"cosine_mean", number(n.cosine_mean)},
               {"cosine_p1", number(n.cosine_p1)},
               {"cosine_min", number(n.cosine_min)},
               {"norm_bias", number(n.norm_bias)},
               {"qjl_slope", number(n.qjl_slope)},
               {"worst_row", n.worst_row}};
  Json controls = Json::object();
  for (int i = 0; i < kControls; ++i) {
    const auto& control = n.controls[static_cast<std::size_t>(i)];
    if (!control) continue;
    controls[std::string(name_of(static_cast<Control>(i)))] = {{"cosine_flattened", number(control->cosine_flattened)},
                                                               {"cosine_min", number(control->cosine_min)},
                                                               {"relative_mse", number(control->relative_mse)}};
  }
  json["controls"] = std::move(controls);
  return json;
}

Json attention_json(const std::optional<AttentionNumbers>& a) {
  if (!a) return nullptr;
  return {{"queries", a->queries},
          {"logit_rmse", number(a->logit_rmse)},
          {"kl_mean", number(a->kl_mean)},
          {"kl_p99", number(a->kl_p99)},
          {"kl_max", number(a->kl_max)},
          {"top1_agreement", number(a->top1_agreement)},
          {"output_relative_error", number(a->output_relative_error)},
          {"output_cosine_mean", number(a->output_cosine_mean)}};
}

Json measurement_json(const Measurement& m) {
  return {{"k", part_json(m.k)},
          {"v", part_json(m.v)},
          {"attention", attention_json(m.attention)},
          {"key_health",
           {{"mean_energy_share", number(m.health.mean_energy_share)},
            {"mean_head", m.health.mean_head},
            {"channel_rms_ratio", number(m.health.channel_rms_ratio)},
            {"channel_head", m.health.channel_head},
            {"channel", m.health.channel},
            {"error_ratio_centered", number(m.health.remedies.center)},
            {"error_ratio_channels_kept", number(m.health.remedies.channels)},
            {"channels_kept", m.health.remedies.kept_channels},
            {"error_ratio_one_more_bit", number(m.health.remedies.one_bit)}}}};
}

Json layer_json(const LayerReport& layer) {
  Json json = {{"layer", layer.index},
               {"kv_heads", layer.kv_heads},
               {"tokens", layer.tokens},
               {"query_heads", layer.query_heads},
               {"attention_scale", number(layer.attention_scale)},
               {"softcap", layer.softcap ? number(*layer.softcap) : Json(nullptr)},
               {"window", layer.window ? Json(*layer.window) : Json(nullptr)},
               {"sinks", layer.sinks}};
  json.update(measurement_json(layer.all));
  json["heads"] = Json::array();
  for (const Measurement& head : layer.heads) json["heads"].push_back(measurement_json(head));
  return json;
}

std::string_view name_of_part(char part) { return part == 'k' ? "k" : part == 'v' ? "v" : part == 'b' ? "kv" : "weights"; }

Json gate_json(const GateReport& gate) {
  const bool of_output = gate.bound.has_value();
  Json json = {{"name", gate.name},
               {"passes_if", fmt::format("{} {} limit", of_output ? "bound" : "value", gate.at_least ? ">=" : "<=")},
               {"limit", number(gate.limit)},
               {"value", number(gate.value)},
               {"bound", of_output ? number(*gate.bound) : Json(nullptr)},
               {"worst_layer", of_output ? Json(nullptr) : Json(gate.worst_layer)},
               {"worst_part", of_output ? Json(nullptr) : Json(std::string(1, gate.worst_part))},
               {"measured", gate.measured},
               {"passed", gate.passed},
               {"sensitive", gate.sensitive},
               {"controls", Json::array()}};
  for (const GateControl& c : gate.controls) {
    json["controls"].push_back({{"part", std::string(name_of_part(c.part))},
                                {"control", std::string(name_of(c.control))},
                                {"value", number(c.value)},
                                {"passed", c.passed}});
  }
  return json;
}

Json model_json(const std::optional<ModelNumbers>& m) {
  if (!m) return nullptr;
  return {{"name", m->name},
          {"family", m->family},
          {"layers", m->layers},
          {"exact_layers", m->exact_layers},
          {"latent", m->latent},
          {"prompt", m->prompt},
          {"tokens", m->tokens},
          {"tokens_available", m->tokens_available},
          {"windows", m->windows},
          {"window", m->window},
          {"stride", m->stride},
          {"predictions", m->predictions},
          {"perplexity", number(m->perplexity)},
          {"max_perplexity", number(m->max_perplexity)},
          {"plausible", m->plausible}};
}

/// Whole numbers as such: 4, 2.25.
Json bits_json(double bits) {
  const auto whole = static_cast<int>(bits);
  return static_cast<double>(whole) == bits ? Json(whole) : Json(bits);
}

std::string first_scheme(const VerifyReport& report, char part) {
  for (const SchemeUse& use : report.schemes) {
    if (use.part == part) return use.scheme;
  }
  return {};
}

Json schemes_json(const VerifyReport& report) {
  Json json = {{"k", first_scheme(report, 'k')}, {"v", first_scheme(report, 'v')}, {"all", Json::array()}};
  for (const SchemeUse& use : report.schemes) {
    json["all"].push_back({{"part", std::string(1, use.part)}, {"scheme", use.scheme}, {"layers", use.layers}});
  }
  return json;
}

Json interval_json(const Interval& interval) {
  return {{"estimate", number(interval.estimate)}, {"low", number(interval.low)}, {"high", number(interval.high)}};
}

Json greedy_json(const std::optional<GreedyNumbers>& greedy) {
  if (!greedy) return nullptr;
  return {{"tokens", greedy->tokens},
          {"first_divergence", greedy->first_divergence ? Json(*greedy->first_divergence) : Json(nullptr)}};
}

Json effect_json(const std::optional<EffectReport>& effect) {
  if (!effect) return nullptr;
  const TokenSummary& t = effect->numbers.tokens;
  Json weights = nullptr;
  if (!effect->weights.empty()) {
    weights = {{"path", effect->weights}, {"bytes", effect->weight_bytes}, {"reference_bytes", effect->reference_weight_bytes}};
  }
  return {{"cache", effect->cache},
          {"weights", std::move(weights)},
          {"predictions", t.predictions},
          {"kl",
           {{"mean", interval_json(t.kl)},
            {"standard_error", number(t.kl_standard_error)},
            {"median", number(t.kl_median)},
            {"p99", number(t.kl_p99)},
            {"max", number(t.kl_max)}}},
          {"perplexity_reference", number(t.reference_perplexity)},
          {"perplexity", number(t.perplexity)},
          {"perplexity_ratio", interval_json(t.perplexity_ratio)},
          {"top1_agreement", interval_json(t.top1)},
          {"logit_cosine", {{"mean", number(t.cosine_mean)}, {"min", number(t.cosine_min)}}},
          {"greedy", greedy_json(effect->numbers.greedy)},
          {"bootstrap",
           {{"confidence", kConfidence}, {"block_tokens", t.block_tokens}, {"resamples", kResamples}, {"seed", kBootstrapSeed}}}};
}

bool all_sensitive(const VerifyReport& report) {
  for (const GateReport& gate : report.gates) {
    if (!gate.sensitive) return false;
  }
  return true;
}

}  // namespace

std::string format_report_json(const VerifyReport& report, int exit_code) {
  const bool has_cache = !report.layers.empty();
  const auto of_cache = [&](Json value) { return has_cache ? std::move(value) : Json(nullptr); };
  const Json k_bits = bits_json(report.k_bits);
  const Json v_bits = bits_json(report.v_bits);
  const bool validated = report.source_kind != "synthetic" && all_sensitive(report) &&
                         (!report.model_numbers || report.model_numbers->plausible);
  Json per_layer = Json::array();
  double least = 1.0;
  for (const LayerReport& layer : report.layers) {
    const double cosine = std::fmin(layer.all.k.cosine_flattened, layer.all.v.cosine_flattened);
    per_layer.push_back(number(cosine));
    least = std::fmin(least, cosine);
  }

  Json json;
  json["schema_version"] = kVerifySchemaVersion;
  json["model"] = report.model;
  json["bits"] = of_cache(k_bits == v_bits ? k_bits : Json(nullptr));
  json["k_bits"] = of_cache(k_bits);
  json["v_bits"] = of_cache(v_bits);
  json["status"] = std::string(name_of(report.verdict));
  json["exit_code"] = exit_code;
  json["validation"] = validated ? "VALIDATED" : "UNVALIDATED";
  json["threshold"] = of_cache(number(report.threshold));
  json["threshold_is_default"] = report.threshold_is_default;
  json["per_layer_cosine"] = std::move(per_layer);
  json["min_cosine"] = of_cache(number(least));
  json["versions"] = {{"tq", TQ_VERSION}, {"turboquant_vllm", nullptr}, {"transformers", nullptr}, {"torch", nullptr}};
  json["source"] = {{"kind", report.source_kind},
                    {"path", report.source_path.empty() ? Json(nullptr) : Json(report.source_path)},
                    {"packed", report.packed_path.empty() ? Json(nullptr) : Json(report.packed_path)},
                    {"model_independent", report.source_kind == "synthetic"}};
  json["model_run"] = model_json(report.model_numbers);
  json["effect"] = effect_json(report.effect);
  json["backend"] = report.backend;
  json["schemes"] = of_cache(schemes_json(report));
  json["bytes"] = of_cache({{"source", report.dump_bytes},
                            {"packed", report.packed_bytes},
                            {"ratio", number(static_cast<double>(report.dump_bytes) / static_cast<double>(report.packed_bytes))}});
  json["gates"] = Json::array();
  for (const GateReport& gate : report.gates) json["gates"].push_back(gate_json(gate));
  json["layers"] = Json::array();
  for (const LayerReport& layer : report.layers) json["layers"].push_back(layer_json(layer));
  json["warnings"] = report.warnings;
  json["advice"] = report.advice;
  return json.dump(2, ' ', false, Json::error_handler_t::replace);  // paths need not be UTF-8
}

std::string format_error_json(const std::string& error, const ModelNumbers* numbers) {
  Json json = {{"schema_version", kVerifySchemaVersion},
               {"status", std::string(name_of(Verdict::kNotMeasured))},
               {"exit_code", 3},
               {"error", error}};
  if (numbers != nullptr) {
    json["perplexity"] = number(numbers->perplexity);
    json["predictions"] = numbers->predictions;
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace tq
