// tq diff: two checkpoints, or two files, tensor by tensor.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "cli/weights_report.h"
#include "lib/verify/diff_tensors.h"

namespace tq::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kSchemaVersion = 1;

struct Options {
  std::string a;
  std::string b;
  ThreadOption threads;
  bool all = false;
  bool json = false;
  bool quiet = false;
};

std::size_t count_state(const DiffReport& report, DiffState state) {
  std::size_t count = 0;
  for (const TensorDiff& tensor : report.tensors) count += tensor.state == state ? 1 : 0;
  return count;
}

std::string format_json(const DiffReport& report) {
  const auto number = [](double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); };
  Json json = {{"schema_version", kSchemaVersion},
               {"a", report.a},
               {"b", report.b},
               {"equal", report.equal()},
               {"tensors", Json::array()}};
  for (const TensorDiff& t : report.tensors) {
    json["tensors"].push_back({{"name", t.name},
                               {"state", std::string(name_of(t.state))},
                               {"type_a", t.type_a.empty() ? Json(nullptr) : Json(t.type_a)},
                               {"type_b", t.type_b.empty() ? Json(nullptr) : Json(t.type_b)},
                               {"shape_a", t.shape_a},
                               {"shape_b", t.shape_b},
                               {"values", t.values},
                               {"differing", t.differing},
                               {"max_abs", number(t.max_abs)},
                               {"relative_mse", number(t.relative_mse)}});
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string format_table(const DiffReport& report, bool all) {
  Table table({"tensor", "state", "A", "B", "differing", "max abs", "rel.MSE"});
  bool any = false;
  for (const TensorDiff& t : report.tensors) {
    if (t.state == DiffState::kIdentical && !all) continue;
    any = true;
    const auto side = [](const std::string& type, const std::vector<std::int64_t>& shape) {
      return type.empty() ? "-" : fmt::format("{} [{}]", type, fmt::join(shape, ","));
    };
    const bool compared = t.state == DiffState::kDifferent;
    table.add({printable_name(t.name), std::string(name_of(t.state)), side(t.type_a, t.shape_a), side(t.type_b, t.shape_b),
               compared ? fmt::format("{} of {}", format_count(static_cast<std::uint64_t>(t.differing)),
                                      format_count(static_cast<std::uint64_t>(t.values)))
                        : "-",
               compared ? fmt::format("{:.4g}", t.max_abs) : "-", compared ? fmt::format("{:.4g}", t.relative_mse) : "-"});
  }
  std::string text = any ? table.format() + "\n" : "";
  text += fmt::format("{} tensors: {} identical", report.tensors.size(), count_state(report, DiffState::kIdentical));
  for (const DiffState state :
       {DiffState::kStorage, DiffState::kDifferent, DiffState::kShape, DiffState::kOnlyA, DiffState::kOnlyB}) {
    if (const std::size_t count = count_state(report, state)) text += fmt::format(", {} {}", count, name_of(state));
  }
  return text + "\n";
}

ExitCode run(const Options& options) {
  const auto backend = make_cpu_backend();
  say(options.quiet, fmt::format("A is {}, B is {}", options.a, options.b));
  const DiffReport report = diff_tensors(options.a, options.b, *backend, options.threads.threads, {});
  fmt::print("{}", options.json ? format_json(report) : format_table(report, options.all));
  return report.equal() ? ExitCode::kDone : ExitCode::kGateFailed;
}

}  // namespace

void add_diff(CLI::App& app, Command& command) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("diff", "compare two checkpoints, or two files, tensor by tensor");
  sub->footer("Examples: tq diff ./model ./model-restored\n"
              "          tq diff cache-a.tq3 cache-b.tq3 --json\n"
              "Values are compared as they decode, to the bit. States: identical; storage (equal values, another type); "
              "different; shape;\nonly in A; only in B. Exit codes: 0 all identical; 1 not; 2 wrong usage; 3 could not be "
              "compared.");
  const char* what = "a checkpoint's directory (plain or native TQ3) or hub id, a .tq3 KV file, or any safetensors file";
  sub->add_option("A", options->a, what)->required();
  sub->add_option("B", options->b, "the other, of the same kind")->required();
  options->threads.declare(*sub);
  sub->add_flag("--all", options->all, "list identical tensors as well");
  sub->add_flag("--json", options->json, "print JSON: every tensor, identical ones as well");
  sub->add_flag("--quiet", options->quiet, "no messages on stderr");
  sub->callback([options, &command] { command = [options] { return run(*options); }; });
}

}  // namespace tq::cli
