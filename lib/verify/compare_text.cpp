// The comparison as text for other programs.
#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lib/verify/compare_schemes.h"

namespace tq {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kCompareSchemaVersion = 1;

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json interval_json(const Interval& i) { return {{"estimate", number(i.estimate)}, {"low", number(i.low)}, {"high", number(i.high)}}; }

Json effect_json(const EffectNumbers& effect) {
  const TokenSummary& t = effect.tokens;
  Json json = {{"kl", interval_json(t.kl)},
               {"kl_p99", number(t.kl_p99)},
               {"perplexity", number(t.perplexity)},
               {"perplexity_ratio", interval_json(t.perplexity_ratio)},
               {"top1_agreement", interval_json(t.top1)}};
  json["first_divergence"] =
      effect.greedy && effect.greedy->first_divergence ? Json(*effect.greedy->first_divergence) : Json(nullptr);
  return json;
}

Json scheme_json(const SchemeNumbers& n) {
  if (!n.refused.empty()) return {{"name", n.name}, {"refused", n.refused}};
  Json json = {{"name", n.name},
               {"refused", nullptr},
               {"k_scheme", n.k_scheme},
               {"v_scheme", n.v_scheme},
               {"bytes_per_token", number(n.bytes_per_token)},
               {"bytes_per_token_long", number(n.bytes_per_token_long)},
               {"bits_per_value", number(n.bits_per_value)},
               {"k", {{"relative_mse", number(n.k_relative_mse)}, {"cosine_flattened_min", number(n.k_cosine)}}},
               {"v", {{"relative_mse", number(n.v_relative_mse)}, {"cosine_flattened_min", number(n.v_cosine)}}}};
  json["attention"] = nullptr;
  if (n.has_attention) {
    json["attention"] = {{"kl_mean", number(n.kl_mean)},
                         {"kl_worst_layer", number(n.kl_worst_layer)},
                         {"cost", number(attention_cost(n))},
                         {"top1_agreement", number(n.top1)},
                         {"output_relative_error", number(n.output_error)}};
  }
  json["effect"] = n.effect ? effect_json(*n.effect) : Json(nullptr);
  json["pareto"] = n.pareto;
  return json;
}

}  // namespace

std::string format_compare_json(const CompareReport& report) {
  Json json = {{"schema_version", kCompareSchemaVersion},
               {"source", report.source},
               {"tokens", report.tokens},
               {"layers", report.layers},
               {"long_context", kLongContext},
               {"pareto_metric", report.metric},
               {"perplexity", report.predictions > 0 ? number(report.perplexity) : Json(nullptr)},
               {"predictions", report.predictions},
               {"schemes", Json::array()},
               {"plausible", report.plausible},
               {"exit_code", report.any_measured() ? 0 : 3}};
  for (const SchemeNumbers& n : report.schemes) json["schemes"].push_back(scheme_json(n));
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::string format_compare_markdown(const CompareReport& report) {
  const bool model = report.predictions > 0;
  std::string text = "| scheme | bytes/token | at 32k | bits/value | rel. MSE K | rel. MSE V | softmax KL | attention output error |";
  text += model ? " output KL (95 %) | perplexity ratio (95 %) | top-1 same |\n" : "\n";
  text += model ? "|---|---|---|---|---|---|---|---|---|---|---|\n" : "|---|---|---|---|---|---|---|---|\n";
  for (const SchemeNumbers& n : report.schemes) {
    if (!n.refused.empty()) {
      text += fmt::format("| `{}` | refused: {} |\n", n.name, n.refused);
      continue;
    }
    const std::string mark = n.pareto ? "**" : "";
    text += fmt::format("| {}`{}`{} | {:.0f} | {:.0f} | {:.2f} | {:.4g} | {:.4g} |", mark, n.name, mark, n.bytes_per_token, n.bytes_per_token_long, n.bits_per_value,
                        n.k_relative_mse, n.v_relative_mse);
    text += n.has_attention ? fmt::format(" {:.4g} | {:.4g} |", n.kl_mean, n.output_error) : " - | - |";
    if (n.effect) {
      const TokenSummary& t = n.effect->tokens;
      text += fmt::format(" {:.4g} ({:.4g}..{:.4g}) | {:.4f} ({:.4f}..{:.4f}) | {:.4f} |", t.kl.estimate, t.kl.low, t.kl.high,
                          t.perplexity_ratio.estimate, t.perplexity_ratio.low, t.perplexity_ratio.high, t.top1.estimate);
    }
    text += "\n";
  }
  return text;
}

}  // namespace tq
