#include "cli/verify_weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "cli/table.h"
#include "cli/terminal.h"
#include "cli/weights_report.h"

namespace tq::cli {
namespace {

std::string fixed(double value, int decimals) { return std::isfinite(value) ? fmt::format("{:.{}f}", value, decimals) : "-"; }
std::string general(double value) { return std::isfinite(value) ? fmt::format("{:.4g}", value) : "-"; }

std::string format_tensors(const VerifyWeightsReport& report) {
  Table table({"tensor", "shape", "stored", "rel.MSE", "/D", "cosine", "cos.min", "worst row", "max abs", "norm bias",
               "other seed"});
  for (const WeightTensorReport& t : report.tensors) {
    const std::string shape = fmt::format("{}", fmt::join(t.shape, "x"));
    if (t.bits == 0) {
      table.add({printable_name(t.name), shape, fmt::format("{} {}", name_of(t.stored_dtype), name_of(t.state)),
                 general(t.relative_mse), "-", "-", "-", "-", general(t.max_abs_error), "-", "-"});
      continue;
    }
    table.add({printable_name(t.name), shape, fmt::format("{} bit", t.bits), general(t.relative_mse), fixed(t.mse_ratio, 3),
               fixed(t.cosine, 5), fixed(t.cosine_min, 5), std::to_string(t.worst_row), general(t.max_abs_error),
               fmt::format("{:+.2f} %", 100 * t.norm_bias), fixed(t.other_seed_mse, 2)});
  }
  return table.format();
}

std::string format_gates(const VerifyWeightsReport& report) {
  Table table({"gate", "limit", "value", "result", "worst tensor"});
  for (const WeightGateReport& gate : report.gates) {
    table.add({gate.name, "<= " + general(gate.limit), general(gate.value),
               !gate.passed      ? "FAIL"
               : gate.sensitive ? "pass"
                                : "pass, but blind",
               gate.worst.empty() ? "-" : printable_name(gate.worst)});
  }
  return table.format();
}

std::string describe_verdict(Verdict verdict) {
  switch (verdict) {
    case Verdict::kPass: return "PASS: every gate passed, and every control was caught";
    case Verdict::kFail: return "FAIL: a gate failed";
    case Verdict::kNotMeasured: break;
  }
  return "NOT MEASURED: no gate failed, and one passes a negative control too";
}

std::string describe_groups(const GroupCounts& groups) {
  const auto count = [](std::int64_t n) { return format_count(static_cast<std::uint64_t>(n)); };
  std::string text = fmt::format("{} of {} whole groups get other codes when they are decoded to BF16 and quantized again\n",
                                 count(groups.whole_changed), count(groups.whole));
  if (groups.padded == 0) return text;
  return text + fmt::format("{} of {} padded groups do, cut to their row and padded again\n", count(groups.padded_changed), count(groups.padded));
}

std::string format_report(const VerifyWeightsReport& report) {
  return fmt::format("{}\n{} against {}: {} -> {} bytes of tensors ({:.2f}x), {} quantized values, relative MSE {}{}\n"
                     "{}\n{}\n{}",
                     format_tensors(report), report.packed_dir, report.source_dir, format_count(report.source_bytes),
                     format_count(report.stored_bytes),
                     static_cast<double>(report.source_bytes) / static_cast<double>(report.stored_bytes),
                     format_count(static_cast<std::uint64_t>(report.quantized_values)), general(report.relative_mse),
                     report.hashes_checked ? "; every hash checked" : "",
                     describe_groups(report.groups), format_gates(report),
                     describe_verdict(report.verdict));
}

}  // namespace

ExitCode exit_code_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::kPass: return ExitCode::kDone;
    case Verdict::kFail: return ExitCode::kGateFailed;
    case Verdict::kNotMeasured: break;
  }
  return ExitCode::kCouldNot;
}

ExitCode run_verify_weights(const VerifyWeightsCommand& command, const Backend& backend) {
  const std::string dir = find_model_dir(command.weights);
  const WeightReader packed = WeightReader::open(dir, backend);
  const std::uint32_t other_seed = packed.tq3() == nullptr ? 0 : packed.tq3()->config().seed + 1;
  const WeightReader other = WeightReader::open(dir, backend, other_seed);
  const WeightReader source = WeightReader::open(find_model_dir(command.against), backend);
  ProgressBar bar("verify", count_values(packed), ProgressBar::Unit::kValues, command.quiet);
  VerifyWeightsReport report =
      verify_weights(packed, other, source, {command.gates, command.threads, bar.callback()});
  bar.finish();
  report.backend = backend.name();
  const ExitCode code = exit_code_of(report.verdict);
  fmt::print("{}\n", command.json ? format_weights_report_json(report, static_cast<int>(code)) : format_report(report));
  return code;
}

}  // namespace tq::cli
