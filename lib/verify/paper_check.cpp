#include "lib/verify/paper_check.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace tq {
namespace {

using Json = nlohmann::ordered_json;

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json estimate_json(const Estimate& e) {
  const double half = kIntervalErrors * e.standard_error;
  return {{"value", number(e.value)},
          {"standard_error", number(e.standard_error)},
          {"interval", {number(e.value - half), number(e.value + half)}},
          {"samples", e.samples}};
}

std::string name_of(PaperVerdict verdict) {
  return verdict == PaperVerdict::kHolds      ? "holds"
         : verdict == PaperVerdict::kViolated ? "violated"
                                              : "imprecise";
}

}  // namespace

PaperVerdict judge_estimate(const Estimate& estimate, const PaperLimits& limits) {
  const double half = kIntervalErrors * estimate.standard_error;
  if (!std::isfinite(estimate.value) || !std::isfinite(half)) return PaperVerdict::kViolated;
  const double low = estimate.value - half;
  const double high = estimate.value + half;
  if (!std::isnan(limits.exact) && (limits.exact < low || limits.exact > high))
    return PaperVerdict::kViolated;
  if (high <= limits.lower || low >= limits.upper) return PaperVerdict::kViolated;
  const bool straddles = low <= limits.lower || high >= limits.upper;
  if ((std::isnan(limits.exact) && straddles) || half > limits.most_error)
    return PaperVerdict::kImprecise;
  return PaperVerdict::kHolds;
}

Verdict overall_verdict(const std::vector<PaperCheck>& checks) {
  const auto any = [&](auto test) { return std::any_of(checks.begin(), checks.end(), test); };
  if (any([](const PaperCheck& c) { return c.verdict == PaperVerdict::kViolated; }))
    return Verdict::kFail;
  const bool unsure = any(
      [](const PaperCheck& c) { return c.verdict != PaperVerdict::kHolds || !c.control_noticed; });
  return unsure || checks.empty() ? Verdict::kNotMeasured : Verdict::kPass;
}

std::string format_paper_json(const PaperReport& report, int exit_code) {
  Json json = {{"status", std::string(tq::name_of(report.verdict))},
               {"exit_code", exit_code},
               {"source", "paper"},
               {"dims", report.dims},
               {"bits", report.bits},
               {"seed", report.seed},
               {"rows", report.rows},
               {"interval_standard_errors", kIntervalErrors},
               {"backend", report.backend},
               {"checks", Json::array()}};
  for (const PaperCheck& c : report.checks) {
    Json entry = {{"check", c.name}, {"claim", c.claim}, {"dim", c.dim},
                  {"bits", c.bits},  {"seed", c.seed},   {"measured", estimate_json(c.measured)}};
    entry["limits"] = {{"exact", number(c.limits.exact)},
                       {"lower", number(c.limits.lower)},
                       {"upper", number(c.limits.upper)},
                       {"most_half_width", number(c.limits.most_error)}};
    entry["verdict"] = name_of(c.verdict);
    entry["control"] = {{"what", c.control},
                        {"measured", estimate_json(c.control_measured)},
                        {"noticed", c.control_noticed}};
    json["checks"].push_back(entry);
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace tq
