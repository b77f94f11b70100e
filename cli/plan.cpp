// tq plan: bits for each layer, K and V apart, under a budget.
#include <fmt/format.h>

#include <cmath>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "cli/verify_model.h"
#include "lib/io/atomic_file.h"
#include "lib/verify/plan_bits.h"

namespace tq::cli {
namespace {

struct Options {
  std::string kv;
  std::string output;
  ModelArguments model;
  std::optional<std::int64_t> tokens;
  SchemeOptions scheme;
  PlanOptions plan;
  ThreadOption threads;
  DeviceOption device;
  bool force = false;
  bool json = false;
  bool quiet = false;
};

std::string format_plan(const PlanReport& report) {
  std::string text = fmt::format("Source   {}\nMetric   {}\n\n", report.source, report.metric);
  Table table({"layer", "K bits", "V bits", "cost of K", "cost of V", "K at 3 bits", "V at 3 bits"});
  for (const LayerPlan& layer : report.layers) {
    const auto at = [](const PartCosts& costs, int bits) { return fmt::format("{:.3g}", costs[static_cast<std::size_t>(bits - kPlanMinBits)]); };
    table.add({std::to_string(layer.index), std::to_string(layer.k_bits), std::to_string(layer.v_bits), at(layer.k_cost, layer.k_bits),
               at(layer.v_cost, layer.v_bits), at(layer.k_cost, 3), at(layer.v_cost, 3)});
  }
  text += table.format() + "\n";
  Table result({"", "bytes/token", report.metric, "predicted", "ppl ratio"});
  const auto add = [&](const std::string& name, const SchemeNumbers& n, double cost, const std::string& predicted) {
    result.add({name, fmt::format("{:.0f}", n.bytes_per_token), fmt::format("{:.4g}", cost), predicted,
                n.effect ? fmt::format("{:.4f}", n.effect->tokens.perplexity_ratio.estimate) : "-"});
  };
  add("plan", report.planned, report.planned_cost, fmt::format("{:.4g}", report.predicted));
  add(report.uniform.name, report.uniform, report.uniform_cost, "-");
  return text + result.format();
}

void check(const Options& options) {
  if (options.kv.empty() == options.model.model.empty()) throw UsageError("plan needs exactly one source: --model DIR or --kv DUMP");
  if (options.plan.bytes_per_token.has_value() == options.plan.max_kld.has_value()) {
    throw UsageError("plan needs exactly one limit: --bytes-per-token B or --max-kld X");
  }
  for (const char* name : {"--bits", "--k-bits", "--v-bits", "--scheme", "--boundary-layers", "--outlier-channels"}) {
    if (options.scheme.is_given(name)) throw UsageError(fmt::format("{} does not go with plan, which chooses the bits of each layer", name));
  }
  const ModelArguments& model = options.model;
  if (!model.with_weights.empty() || model.check || model.greedy > 0) {
    throw UsageError("--with-weights, --check and --greedy go with verify, not with plan");
  }
  if (options.tokens && options.model.model.empty()) throw UsageError("--tokens goes with --model; a dump has its own");
}

PlanReport measure(const Options& options) {
  PlanOptions plan = options.plan;
  plan.scheme = options.scheme.resolve();
  plan.threads = options.threads.threads;
  ProgressBar bar("plan", 0, ProgressBar::Unit::kHeads, true);
  plan.progress = [&](std::size_t done, std::size_t all) {
    if (done % 10 == 0 || done == all) say(options.quiet, fmt::format("plan: {} of {} measurements", done, all));
  };
  const Device device = options.device.open();
  const Backend& backend = *device.backend;
  const ModelDevice on_device = DeviceOption::open_model(device);
  plan.attention = on_device.attention;
  if (!options.kv.empty()) {
    const KvDump dump = KvDump::open(options.kv);
    return plan_bits(*make_dump_source(dump), nullptr, backend, plan);
  }
  const Model model = Model::open(options.model.model);
  ModelSource source(model.dir(), plan.attention_queries);
  const ModelEffect effect = run_reference(model, options.model, options.tokens, plan.threads, on_device.forward.get(), source);
  return plan_bits(source, &effect, backend, plan);
}

ExitCode run(const Options& options) {
  check(options);
  if (!options.output.empty()) check_output(options.kv, options.output, options.force);
  const PlanReport report = measure(options);
  if (!options.output.empty()) {
    const std::string text = format_scheme_file(report.scheme);
    AtomicFile file = AtomicFile::open(options.output, options.force);
    file.write(0, std::as_bytes(std::span(text)));
    file.commit();
  }
  const double limit = options.plan.max_kld.value_or(INFINITY);
  if (report.planned_cost > limit) {
    warn(fmt::format("the plan was predicted to cost {:.4g} and costs {:.4g}, above --max-kld {:g}: costs of parts add up roughly; ask "
                     "for less", report.predicted, report.planned_cost, limit));
  }
  fmt::print("{}", options.json ? format_plan_json(report) + "\n" : format_plan(report));
  return ExitCode::kDone;
}

}  // namespace

void add_plan(CLI::App& app, Command& command) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("plan", "choose the bits of each layer, K and V apart, from what each costs");
  sub->footer("Examples: tq plan --kv docs/samples/smollm2-135m-instruct.safetensors --bytes-per-token 900 -o plan.json\n"
              "          tq plan --model DIR --tokens 512 --max-kld 0.05 -o plan.json && tq verify --model DIR --scheme plan.json\n"
              "Costs are measured a part at a time and added (docs/verification.md); the whole is measured at the end.");
  const char* group = "Source (exactly one)";
  options->model.declare(*sub, group);
  sub->add_option("--kv", options->kv, "a KV dump with queries: the cost is that of its attention")->group(group);
  sub->add_option("--tokens", options->tokens, "with --model: the first N tokens of the text, 1..2147483648, in windows (default up to 128)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 31))->default_str("")->group("With --model");
  const char* limit = "Limit (exactly one)";
  sub->add_option("--bytes-per-token", options->plan.bytes_per_token, "K and V of all layers take at most so many bytes a token, norms "
                                                                      "included")->check(not_negative())->group(limit);
  sub->add_option("--max-kld", options->plan.max_kld, "the fewest bytes for which the predicted cost is at most X: with --model the KL of "
                                                      "the output, nats; with --kv the softmax KL and half the squared error of "
                                                      "the output of attention")->check(not_negative())->group(limit);
  options->scheme.declare(*sub);
  options->threads.declare(*sub);
  options->device.declare(*sub, DeviceOption::Runs::kModels);
  sub->add_option("-o,--output", options->output, "write the plan as a file for --scheme of pack-kv and verify");
  sub->add_flag("--force", options->force, "overwrite the output");
  sub->add_flag("--json", options->json, "print JSON");
  sub->add_flag("--quiet", options->quiet, "no progress on stderr");
  sub->callback([options, &command] { command = [options] { return run(*options); }; });
}

}  // namespace tq::cli
