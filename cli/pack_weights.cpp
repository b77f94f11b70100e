// tq pack-weights: a model's checkpoint -> a native TQ3 checkpoint; tq merge-shards: its parts -> the whole.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "cli/weights_report.h"
#include "lib/model/tokenizer/unicode.h"
#include "lib/pack/name_pattern.h"

namespace tq::cli {
namespace {

struct Options {
  std::string model;
  std::string output;
  WeightOptions weights;
  std::string keep_dtype = "same";
  std::string max_shard_size = "5GiB";
  std::string shard;
  WeightGateOptions gates;
  ThreadOption threads;
  DeviceOption device;
  bool dry_run = false;
  bool resume = false;
  bool force = false;
  bool json = false;
  bool quiet = false;
};

/// "K/N".
int parse_part(const std::string& text, WeightOptions& weights) {
  constexpr int kMostParts = 99'999;
  if (text.empty()) return 1;
  int part = 0, parts = 0, used = 0;
  if (std::sscanf(text.c_str(), "%5d/%5d%n", &part, &parts, &used) != 2 || static_cast<std::size_t>(used) != text.size() ||
      part < 1 || part > parts || parts > kMostParts) {
    throw UsageError(fmt::format("--shard: '{}' is no part; give K/N with 1 <= K <= N <= {}", text, kMostParts));
  }
  weights.parts = parts;
  return part;
}

/// What tq_config.json is to hold.
void require_utf8(const char* what, const std::string& text) {
  if (text::find_invalid_utf8(text)) throw UsageError(fmt::format("{}: {} is not UTF-8, and tq_config.json holds nothing else", what, quote_name(text)));
}

std::vector<std::string> collect_warnings(const WeightPlan& plan, const PackRun& run) {
  std::vector<std::string> warnings;
  int padded = 0, fused = 0, quantized = 0;
  for (const WeightItem& item : plan.items) {
    if (!item.is_quantized()) continue;
    ++quantized;
    if (item.part != run.part) continue;
    padded += item.in_dim() % plan.options.group_size != 0 ? 1 : 0;
    fused += item.name().ends_with(".weight") ? 0 : 1;
  }
  if (quantized == 0) {
    warnings.emplace_back(plan.options.skip.empty() && !plan.options.skip_router
                              ? "no tensor is quantized: none is a large 2-D '...weight' or a 3-D stack of experts"
                              : "no tensor is quantized: what --skip and --skip-router leave holds no large 2-D '...weight' and no 3-D stack of experts");
  }
  const auto count_names = [&](auto&& matches) {
    return std::count_if(plan.items.begin(), plan.items.end(), [&](const WeightItem& item) { return matches(item.name()); });
  };
  for (const std::string& skip : plan.options.skip) {
    const NamePattern pattern(skip);
    if (count_names([&](const std::string& name) { return pattern.matches(name); }) == 0) {
      warnings.push_back(fmt::format("--skip {}: matches no tensor", printable_name(skip)));
    }
  }
  std::int64_t sensitive = 0;
  if (plan.options.sensitive_bits != 0) {
    for (const std::string& pattern : sensitive_patterns_of(plan.options)) {
      const std::int64_t count = count_names([&](const std::string& name) { return name.find(pattern) != std::string::npos; });
      sensitive += count;
      if (count == 0) warnings.push_back(fmt::format("--sensitive-pattern {}: is part of no tensor's name", printable_name(pattern)));
    }
  }
  if (const std::string method = find_quantization(run.source_dir); !method.empty()) {
    warnings.push_back(fmt::format("the source is quantized already ({}): its quantization_config is left out, and tensors in that form are kept as they are, which loaders will not understand; start from the unquantized model",
                                   printable_name(method)));
  }
  if (sensitive > 0 && plan.options.sensitive_bits != plan.options.bits) {
    warnings.emplace_back("--sensitive-bits: the published vLLM loader decodes such tensors wrongly (it knows one bit width); the Hugging Face loader and tq read them");
  }
  if (padded > 0) {
    warnings.push_back(fmt::format("{} tensors have rows that are no multiple of {} values: they are padded, which the published vLLM loader refuses; the Hugging Face loader and tq read them",
                                   padded, plan.options.group_size));
  }
  if (fused > 0) {
    warnings.push_back(fmt::format("{} fused expert tensors have names without '.weight': the published vLLM loader refuses them; the Hugging Face loader and tq read them", fused));
  }
  if (!std::filesystem::exists(std::filesystem::path(run.source_dir) / kModelConfigName)) {
    warnings.push_back(fmt::format("{}: has no {}: the weights are packed, but loaders will not know the model", run.source_dir, kModelConfigName));
  }
  return warnings;
}

/// A warning of files in the output that are not this model's: a loader may take an old tokenizer for its own.
void add_strangers(const std::string& output, WeightsReport& report) {
  constexpr std::size_t kMostNames = 5;
  std::vector<std::string> names = list_strangers(output, report.files);
  if (names.empty()) return;
  const std::size_t count = names.size();
  names.resize(std::min(count, kMostNames));
  for (std::string& name : names) name = printable_name(name);
  report.warnings.push_back(fmt::format("{}: holds {} that this model did not bring: {}{}", output, count == 1 ? "a file" : fmt::format("{} files", count),
                                        fmt::join(names, ", "), count > kMostNames ? ", ..." : ""));
}

ExitCode print_dry_run(const Options& options, const WeightsReport& report, const std::string& summary) {
  if (options.json) {
    fmt::print("{}\n", weights_json(report).dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    fmt::print("{}\n{}\nnothing was written (--dry-run)\n", format_weights_table(report), summary);
  }
  for (const std::string& warning : report.warnings) warn(warning);
  return ExitCode::kDone;
}

ExitCode judge(const Options& options, const WeightsReport& report) {
  ExitCode code = ExitCode::kDone;
  for (const WeightGate& gate : report.gates) {
    if (!options.json) fmt::print("{}\n", format_gate(gate));
    if (!gate.passed()) code = ExitCode::kGateFailed;
  }
  return code;
}

/// "reading 31 %, writing 21 %, processors 48 % of the threads' time".
std::string describe_seconds(const PackSeconds& seconds) {
  std::string text;
  for (const auto& [name, spent] : seconds.all()) {
    if (spent > 0) text += fmt::format("{}{} {:.0f} %", text.empty() ? "" : ", ", name, 100 * spent / seconds.sum());
  }
  return text + " of the threads' time";
}

PackWeightsResult run_pipeline(const Options& options, const Checkpoint& source, const WeightPlan& plan, const Backend& backend,
                               const PackRun& run, std::string& rate) {
  ProgressBar bar("pack-weights", plan.part_input_bytes(run.part), ProgressBar::Unit::kBytes, options.quiet);
  const Progress count = bar.callback();
  std::optional<ProgressBar> checking;  // what --resume finds
  PackWeightsOptions how;
  if (options.resume) {
    how.check_progress = checking.emplace("checking", plan.part_tensor_bytes(run.part), ProgressBar::Unit::kBytes, options.quiet).callback();
  }
  how.threads = options.threads.threads;
  how.resume = options.resume;
  how.check_all = options.gates.max_rel_mse || options.gates.max_rel_mse_ratio;
  how.progress = [&](const WeightItem& item, std::uint64_t item_done, std::uint64_t amount) {
    checking.reset();
    bar.set_note(printable_name(item.name()), item_done, item.source->info->bytes);
    count(amount);
  };
  PackWeightsResult result = pack_weights(source, plan, backend, options.output, run, how);
  rate = bar.finish();
  return result;
}

ExitCode run(const Options& options) {
  WeightOptions weights = options.weights;
  weights.keep_f16 = options.keep_dtype == "f16";
  weights.max_shard_bytes = parse_size("--max-shard-size", options.max_shard_size);
  const int part = parse_part(options.shard, weights);
  check_weight_options(weights);
  require_utf8("MODEL_DIR", options.model);
  for (const std::string& pattern : weights.sensitive_patterns) {
    require_utf8("--sensitive-pattern", pattern);
    if (pattern.empty()) throw UsageError("--sensitive-pattern: is empty, and would match every name");
  }
  for (const std::string& pattern : weights.skip) {
    if (pattern.empty()) throw UsageError("--skip: is empty, and would match every name");
  }

  const std::string source_dir = find_model_dir(options.model);
  const Checkpoint source = Checkpoint::open(source_dir);
  const WeightPlan plan = plan_weights(source, weights);
  const PackRun run{options.model, std::filesystem::canonical(source_dir).string(), weights, part, options.force,
                    make_fingerprint(source, weights)};
  const Device device = options.device.open();
  const Backend& backend = *device.backend;
  WeightsReport report{&plan, &run, options.output, list_output(source, plan, run), nullptr, {},
                       collect_warnings(plan, run), 0, backend.name(), std::min(options.threads.threads, kMostPackThreads)};
  const std::string summary = summarize_weights(plan, run, report.files);
  if (options.dry_run) return print_dry_run(options, report, summary);

  const auto start = std::chrono::steady_clock::now();
  std::string rate;
  const PackWeightsResult result = run_pipeline(options, source, plan, backend, run, rate);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (result.was_complete) {
    if (options.gates.max_rel_mse || options.gates.max_rel_mse_ratio) {
      throw Error(fmt::format("{}: is complete already, and what was measured while it was packed is not kept; 'tq verify --weights' measures it again", options.output));
    }
    if (options.json) fmt::print("{}\n", nlohmann::ordered_json{{"schema_version", kPackReportVersion}, {"output", options.output}, {"complete", true}, {"tensors_resumed", plan.items.size()}}
                                          .dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    say(options.quiet, fmt::format("{}: is complete already", options.output));
    return ExitCode::kDone;
  }
  report.result = &result;
  if (std::string losses = describe_f16_losses(plan, result.records); !losses.empty()) report.warnings.push_back(std::move(losses));
  if (result.is_complete) add_strangers(options.output, report);
  report.gates = judge_weights(plan, result.records, options.gates);
  if (options.json) {
    fmt::print("{}\n", weights_json(report).dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    fmt::print("{}\n", format_weights_table(report));
  }
  for (const std::string& file : result.lost) {
    say(options.quiet, fmt::format("{}: was gone; what the earlier run had finished of it was packed again", file));
  }
  if (result.sampled > 0) {
    say(options.quiet, fmt::format("{} tensors were packed again: an earlier run had checked a sample of their rows, and the gates judge all",
                                   result.sampled));
  }
  if (result.resumed > 0) say(options.quiet, fmt::format("{} tensors were finished before", result.resumed));
  say(options.quiet, fmt::format("{}: {}; read {}, wrote {} in {} ({}, {} threads)", options.output, summary,
                                 format_bytes(result.bytes_read), format_bytes(result.bytes_written), rate, backend.name(),
                                 report.threads));
  say(options.quiet, fmt::format("bound by {}: {}", result.seconds.bound(), describe_seconds(result.seconds)));
  if (!result.is_complete) {
    say(options.quiet, fmt::format("{}: part {} of {} is done; when all are, run 'tq merge-shards {}'", options.output, part,
                                   weights.parts, options.output));
  }
  for (const std::string& warning : report.warnings) warn(warning);
  return judge(options, report);
}

struct MergeOptions {
  std::string output;
  ThreadOption threads;
  bool json = false;
  bool quiet = false;
};

ExitCode run_merge(const MergeOptions& options) {
  const MergeResult result = merge_shards(options.output, *make_cpu_backend(), options.threads.threads, {});
  if (options.json) {
    using Json = nlohmann::ordered_json;
    Json json = {{"output", options.output}, {"source", result.source_dir}, {"parts", result.parts}, {"shards", result.shards},
                 {"shard_bytes", result.bytes}, {"complete", true}, {"was_complete", result.was_complete}};
    if (result.was_complete) json["source"] = json["parts"] = nullptr;
    fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
  }
  say(options.quiet, fmt::format("{}: {}, {} files of weights, {} bytes, every hash checked", options.output,
                                 result.was_complete ? "is complete already: no parts" : fmt::format("complete: {} parts", result.parts),
                                 result.shards, format_count(result.bytes)));
  return ExitCode::kDone;
}

void declare_what(CLI::App& sub, Options& o) {
  sub.add_option("--bits", o.weights.bits, "bits of a weight: 2, 3 or 4")->check(CLI::IsMember({2, 3, 4}))->group("What");
  sub.add_option("--group-size", o.weights.group_size, "values that share a norm: 64, 128 or 256; rows are padded with zeros to a multiple")
      ->check(CLI::IsMember({64, 128, 256}))->group("What");
  CLI::Option* sensitive =
      sub.add_option("--sensitive-bits", o.weights.sensitive_bits, "bits of tensors that a --sensitive-pattern chooses: 2, 3 or 4")
          ->check(CLI::IsMember({2, 3, 4}))->group("What")->default_str("");
  sub.add_option("--sensitive-pattern", o.weights.sensitive_patterns,
                 "part of the name of a sensitive tensor; may be repeated; default o_proj and down_proj")
      ->needs(sensitive)->group("What")->allow_extra_args(false);
  sub.add_option("--skip", o.weights.skip, "regular expression (Perl's syntax); a tensor whose name matches is kept; may be repeated")
      ->group("What")->allow_extra_args(false);
  sub.add_flag("--skip-router", o.weights.skip_router, "keep the routers of mixtures of experts")->group("What");
  sub.add_option("--keep-dtype", o.keep_dtype, "type of floating-point tensors that are kept: same, or f16 (as the published converter)")
      ->check(CLI::IsMember({"same", "f16"}))->group("What");
  sub.add_option("--max-shard-size", o.max_shard_size, "most bytes of tensors in a file: a number with B, KB, MB, GB, TB (decimal), KiB, MiB, GiB or TiB")->group("What");
  sub.add_option("--effort", o.weights.effort, "how hard to look for codes: 0 takes the nearest level, as the published converter; 1..3 search the scale of each group, for less error in the same bytes")
      ->check(CLI::Range(0, 3))->group("What");
}

void declare_how(CLI::App& sub, Options& o) {
  o.threads.declare(sub);
  o.device.declare(sub);
  sub.add_option("--shard", o.shard, "K/N: pack the K-th of N parts of the source's files, with the same options in each; 'tq merge-shards' makes the parts a whole");
  CLI::Option* resume = sub.add_flag("--resume", o.resume, "go on with an interrupted run of the same command; begins it if there is none");
  sub.add_flag("--force", o.force, "replace an earlier result, or start an interrupted run again")->excludes(resume);
  sub.add_flag("--dry-run", o.dry_run, "print the exact bytes of every file and write nothing");
  sub.add_option("--max-rel-mse", o.gates.max_rel_mse, "gate: largest relative MSE of a tensor, of which then all rows are checked; beyond it, exit 1 (the output is kept)")
      ->check(not_negative())->group("Gates");
  sub.add_option("--max-rel-mse-ratio", o.gates.max_rel_mse_ratio,
                 "gate: largest ratio of a tensor's relative MSE to D, the codebook's exact distortion; beyond it, exit 1")
      ->check(not_negative())->group("Gates");
  sub.add_flag("--json", o.json, "print JSON instead of the table (docs/pack-weights.schema.json)");
  sub.add_flag("--quiet", o.quiet, "no progress and no summary on stderr");
}

}  // namespace

void add_pack_weights(CLI::App& app, Command& command) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("pack-weights", "quantize a model's checkpoint into a native TQ3 checkpoint");
  sub->footer("Example: tq pack-weights ./Llama-3.1-8B -o ./Llama-3.1-8B-tq3 --bits 3");
  sub->add_option("MODEL_DIR", options->model,
                  "directory with model.safetensors, or with an index and its shards, in BF16, F16 or F32; or the id of a model "
                  "in the local Hugging Face cache")->required();
  sub->add_option("-o,--output", options->output, "the directory to write")->required();
  declare_what(*sub, *options);
  declare_how(*sub, *options);
  sub->callback([options, &command] { command = [options] { return run(*options); }; });
}

void add_merge_shards(CLI::App& app, Command& command) {
  auto options = std::make_shared<MergeOptions>();
  CLI::App* sub = app.add_subcommand("merge-shards", "make the parts of 'tq pack-weights --shard K/N' a whole checkpoint");
  sub->footer("Example: tq merge-shards ./Llama-3.1-405B-tq3");
  sub->add_option("OUT_DIR", options->output, "the output directory of the parts")->required();
  options->threads.declare(*sub);
  sub->add_flag("--json", options->json, "print JSON");
  sub->add_flag("--quiet", options->quiet, "no summary on stderr");
  sub->callback([options, &command] { command = [options] { return run_merge(*options); }; });
}

}  // namespace tq::cli
