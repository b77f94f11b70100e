#include "lib/verify/effect_gates.h"

#include <cmath>

namespace tq {
namespace {

struct Quantity {
  const char* name;
  bool at_least;
  Interval TokenSummary::*interval;
};

GateReport judge_one(const TokenSummary& tokens, std::span<const EffectControl> controls, const Quantity& q, double limit) {
  const auto passes = [&](double value) { return q.at_least ? value >= limit : value <= limit; };
  const Interval& found = tokens.*q.interval;
  GateReport gate;
  gate.name = q.name;
  gate.at_least = q.at_least;
  gate.limit = limit;
  gate.value = found.estimate;
  gate.bound = q.at_least ? found.low : found.high;
  gate.measured = !std::isnan(found.estimate);
  gate.passed = passes(*gate.bound);
  for (const EffectControl& control : controls) {
    const double value = (control.tokens.*q.interval).estimate;
    gate.controls.push_back({control.part, control.control, value, passes(value)});
    gate.sensitive = gate.sensitive && !passes(value);
  }
  return gate;
}

}  // namespace

std::vector<GateReport> judge_effect(const TokenSummary& tokens, std::span<const EffectControl> controls,
                                     const EffectGateOptions& options) {
  std::vector<GateReport> gates;
  const auto add = [&](const Quantity& quantity, std::optional<double> limit) {
    if (limit) gates.push_back(judge_one(tokens, controls, quantity, *limit));
  };
  add({"max-kld", false, &TokenSummary::kl}, options.max_kld);
  add({"max-ppl-ratio", false, &TokenSummary::perplexity_ratio}, options.max_ppl_ratio);
  add({"min-token-top1", true, &TokenSummary::top1}, options.min_token_top1);
  return gates;
}

}  // namespace tq
