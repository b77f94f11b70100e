// tq verify --paper: prints what validate_paper() finds.
#include "cli/verify_paper.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/table.h"
#include "cli/terminal.h"
#include "cli/verify_weights.h"

namespace tq::cli {
namespace {

std::string format_limits(const PaperLimits& limits) {
  if (std::isfinite(limits.lower)) return fmt::format("> {:.5g}", limits.lower);
  return std::isfinite(limits.upper) ? fmt::format("<= {:.5g}", limits.upper) : "";
}

std::string format_verdict(PaperVerdict verdict) {
  return verdict == PaperVerdict::kHolds      ? "holds"
         : verdict == PaperVerdict::kViolated ? "VIOLATED"
                                              : "TOO FEW ROWS";
}

std::string format_report(const PaperReport& report) {
  std::string text = fmt::format(
      "TurboQuant, arXiv 2504.19874, on {}: seed {}, {} rows a measurement\n\n", report.backend,
      report.seed, format_count(static_cast<std::uint64_t>(report.rows)));
  Table table({"check", "dim", "bits", "N", "measured", "+-", "exact", "bound", "result", "control",
               "its value", "noticed"});
  for (const PaperCheck& c : report.checks) {
    table.add({c.name, std::to_string(c.dim), std::to_string(c.bits),
               format_count(static_cast<std::uint64_t>(c.measured.samples)),
               fmt::format("{:.5g}", c.measured.value),
               fmt::format("{:.2g}", kIntervalErrors * c.measured.standard_error),
               std::isnan(c.limits.exact) ? "" : fmt::format("{:.5g}", c.limits.exact),
               format_limits(c.limits), format_verdict(c.verdict), c.control,
               fmt::format("{:.5g}", c.control_measured.value), c.control_noticed ? "yes" : "NO"});
  }
  text += table.format() + "\n";
  std::vector<std::string> explained;
  for (const PaperCheck& c : report.checks) {
    if (std::find(explained.begin(), explained.end(), c.name) != explained.end()) continue;
    text += fmt::format("{}: {}\n", c.name, c.claim);
    explained.push_back(c.name);
  }
  const char* what = report.verdict == Verdict::kPass
                         ? "every check holds, and every control was noticed"
                     : report.verdict == Verdict::kFail
                         ? "a check is violated"
                         : "a check was not precise enough: give more --rows; or a control was not noticed";
  return text + fmt::format("\n{}: {}\n", name_of(report.verdict), what);
}

}  // namespace

void PaperArguments::declare(CLI::App& app, const char* source_group) {
  CLI::Option* option =
      app.add_flag(
             "--paper", paper,
             "the theorems of arXiv 2504.19874 and what follows from them, on seeded rows: no "
             "model, no dump")
          ->group(source_group);
  app.add_option("--rows", options.settings.rows,
                 "rows of a measurement, 16384..16777216; of those with a sketch a quarter")
      ->check(CLI::Range(std::int64_t{16384}, std::int64_t{1} << 24))
      ->needs(option)
      ->group("With --paper");
}

ExitCode run_verify_paper(PaperOptions options, const Backend& backend, bool json, bool quiet) {
  ProgressBar bar("verify", options.dims.size() * options.bits.size(), ProgressBar::Unit::kHeads,
                  quiet);
  options.progress = bar.callback();
  const PaperReport report = validate_paper(options, backend);
  bar.finish();
  const ExitCode code = exit_code_of(report.verdict);
  fmt::print("{}", json ? format_paper_json(report, static_cast<int>(code)) + "\n"
                        : format_report(report));
  return code;
}

}  // namespace tq::cli
