#include "cli/verify_table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "cli/effect_table.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "lib/model/prompt.h"

namespace tq::cli {
namespace {

std::string fixed(double value, int decimals) { return std::isfinite(value) ? fmt::format("{:.{}f}", value, decimals) : "-"; }
std::string general(double value) { return std::isfinite(value) ? fmt::format("{:.4g}", value) : "-"; }

std::vector<std::string> part_row(const std::string& place, char part, const PartNumbers& n) {
  return {place,
          std::string(1, part),
          fmt::format("{:.4g}", n.average_bits),
          general(n.relative_mse),
          fixed(n.mse_ratio, 3),
          std::isfinite(n.other_seeds_min) ? fmt::format("{}..{}", fixed(n.other_seeds_min, 3), fixed(n.other_seeds_max, 3)) : "-",
          fixed(n.bound_ratio, 3),
          fixed(n.bits_lost, 3),
          fixed(n.cosine_flattened, 5),
          fixed(n.cosine_mean, 5),
          fixed(n.cosine_p1, 5),
          fixed(n.cosine_min, 5),
          fmt::format("{:+.2f} %", 100.0 * n.norm_bias)};
}

/// Calls f(place, measurement) for each layer, or for each head of each layer.
template <class F>
void for_each_place(const VerifyReport& report, bool per_head, F&& f) {
  for (const LayerReport& layer : report.layers) {
    if (!per_head) {
      f(std::to_string(layer.index), layer.all);
      continue;
    }
    for (std::size_t head = 0; head < layer.heads.size(); ++head) f(fmt::format("{}/{}", layer.index, head), layer.heads[head]);
  }
}

std::string format_codec(const VerifyReport& report, bool per_head) {
  Table table({per_head ? "layer/head" : "layer", "part", "bits", "rel.MSE", "/D", "/D 8 seeds", "/bound", "bits lost",
               "cosine", "cos.mean", "cos.p1", "cos.min", "norm bias"});
  for_each_place(report, per_head, [&](const std::string& place, const Measurement& m) {
    table.add(part_row(place, 'K', m.k));
    table.add(part_row(place, 'V', m.v));
  });
  return table.format();
}

std::string format_attention(const VerifyReport& report, bool per_head) {
  Table table({per_head ? "layer/head" : "layer", "queries", "logit RMSE", "KL mean", "KL p99", "top-1", "output err.",
               "K mean share", "channel/median"});
  bool any = false;
  for_each_place(report, per_head, [&](const std::string& place, const Measurement& m) {
    const AttentionNumbers none{0, NAN, NAN, NAN, NAN, NAN, NAN, NAN};
    const AttentionNumbers& a = m.attention ? *m.attention : none;
    any |= m.attention.has_value();
    table.add({place, std::to_string(a.queries), general(a.logit_rmse), general(a.kl_mean), general(a.kl_p99),
               fixed(a.top1_agreement, 4), general(a.output_relative_error),
               fmt::format("{:.0f} % (h{})", 100.0 * m.health.mean_energy_share, m.health.mean_head),
               fmt::format("{} (h{} c{})", fixed(m.health.channel_rms_ratio, 1), m.health.channel_head, m.health.channel)});
  });
  return table.format() + (any ? "" : "(no queries were captured: attention was not measured)\n");
}

std::string format_gates(const VerifyReport& report) {
  if (report.gates.empty()) return "(no gate was asked for: nothing is judged)\n";
  Table table({"gate", "limit", "value", "worst at", "result", "controls it must catch"});
  for (const GateReport& gate : report.gates) {
    std::size_t caught = 0;
    for (const GateControl& control : gate.controls) caught += control.passed ? 0 : 1;
    table.add({"--" + gate.name, fmt::format("{} {}", gate.at_least ? ">=" : "<=", general(gate.limit)), fixed(gate.bound.value_or(gate.value), 5),
               gate.bound ? "95 % bound" : fmt::format("layer {} {}", gate.worst_layer, gate.worst_part == 'k' ? 'K' : 'V'),
               !gate.measured  ? "not measured"
               : !gate.passed  ? "FAIL"
               : gate.sensitive ? "pass"
                                : "pass, but blind",
               gate.controls.empty() ? "-" : fmt::format("{} of {} caught", caught, gate.controls.size())});
  }
  return table.format();
}

/// The lines that only a model has.
std::string describe_model(const VerifyReport& report) {
  if (!report.model_numbers) return {};
  const ModelNumbers& m = *report.model_numbers;
  std::map<std::int64_t, std::int64_t> windows;
  for (const LayerReport& layer : report.layers) {
    if (layer.window) ++windows[*layer.window];
  }
  std::string text = fmt::format("Run      {}, {} layers, {}{}\n", m.family, m.layers,
                                 describe_tokens(m.tokens, m.tokens_available, m.prompt), m.latent ? ", the latent cache" : "");
  text += m.predictions == 0 ? "Reads    no predictions: one token has none before it\n"
                             : fmt::format("Reads    perplexity {:.4g} over {} {} (at most {:g} is plausible)\n", m.perplexity,
                                           m.predictions, m.predictions == 1 ? "prediction" : "predictions", m.max_perplexity);
  if (m.windows > 1) {
    text += fmt::format("Text     {} windows of up to {} tokens, each read from its own beginning, {} tokens of text apart\n",
                        m.windows, m.window, m.stride);
  }
  for (const auto& [window, layers] : windows) text += fmt::format("Windows  {} tokens in {} layers\n", window, layers);
  if (!m.exact_layers.empty()) text += fmt::format("Exact    layers {}\n", fmt::join(m.exact_layers, ", "));
  return text;
}

std::string describe_source(const VerifyReport& report) {
  if (report.source_kind == "synthetic") return "Gaussian rows (model-independent)";
  if (report.source_kind == "packed") return fmt::format("{} against {}", report.packed_path, report.source_path);
  return report.source_path;
}

/// A line for each scheme; the layers only where there are several.
std::string describe_schemes(const VerifyReport& report) {
  std::string text;
  for (const char part : {'k', 'v'}) {
    const auto uses = std::count_if(report.schemes.begin(), report.schemes.end(), [&](const SchemeUse& u) { return u.part == part; });
    for (const SchemeUse& use : report.schemes) {
      if (use.part != part) continue;
      text += fmt::format("{}        {}{}\n", part == 'k' ? 'K' : 'V', use.scheme,
                          uses == 1 ? "" : fmt::format("  (layers {})", fmt::join(use.layers, ", ")));
    }
  }
  return text;
}

std::string describe_verdict(const VerifyReport& report) {
  switch (report.verdict) {
    case Verdict::kPass:
      return report.gates.empty() ? "DONE: measured, and not judged" : "PASS: every gate passed, and every control was caught";
    case Verdict::kFail: return "FAIL: a gate failed";
    case Verdict::kNotMeasured: break;
  }
  return "NOT MEASURED: no gate failed, and one had nothing to measure or passes a negative control too";
}

}  // namespace

std::string format_report_table(const VerifyReport& report, bool per_head) {
  std::string text =
      fmt::format("Model    {}\nSource   {}\n{}", report.model, describe_source(report), describe_model(report));
  if (report.layers.empty()) {
    text += "\n";
  } else {
    text += fmt::format("{}Bytes    {} -> {} ({:.2f}x)\n\n", describe_schemes(report), format_count(report.dump_bytes),
                        format_count(report.packed_bytes),
                        static_cast<double>(report.dump_bytes) / static_cast<double>(report.packed_bytes));
    text += format_codec(report, per_head) + "\n" + format_attention(report, per_head) + "\n";
  }
  if (report.effect) text += format_effect(*report.effect) + "\n";
  text += format_gates(report) + "\n";
  for (const std::string& warning : report.warnings) text += "warning: " + warning + "\n";
  for (const std::string& advice : report.advice) text += "advice: " + advice + "\n";
  if (!report.warnings.empty() || !report.advice.empty()) text += "\n";
  return text + describe_verdict(report) + "\n";
}

}  // namespace tq::cli
