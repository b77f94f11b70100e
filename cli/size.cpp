// tq size: the bytes of a model's cache and weights by scheme and context length, from config.json alone.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "lib/io/checkpoint.h"
#include "lib/model/capture.h"
#include "lib/verify/size_plan.h"

namespace tq::cli {
namespace {

struct Options {
  std::string model;
  SizeOptions size;
  SchemeOptions scheme;
  bool json = false;
};

std::string format_gib(std::uint64_t bytes) {
  return fmt::format("{:.3f}", static_cast<double>(bytes) / (1 << 30));
}

std::string format_ratio(std::uint64_t whole, std::uint64_t part) {
  return part == 0 ? "-"
                   : fmt::format("{:.2f}x", static_cast<double>(whole) / static_cast<double>(part));
}

void print_caches(const SizePlan& plan) {
  std::vector<std::string> header = {"scheme"};
  for (const std::int64_t context : plan.contexts) {
    header.push_back(fmt::format("{} tokens", format_count(static_cast<std::uint64_t>(context))));
    for (const char* name : {"GiB", "bytes/token", "less by"}) header.push_back(name);
  }
  Table table(header);
  for (const CacheSize& size : plan.caches) {
    std::vector<std::string> row = {size.name};
    for (std::size_t i = 0; i < plan.contexts.size(); ++i) {
      if (size.bytes.empty()) {
        row.insert(row.end(), 4, "-");
        continue;
      }
      const double tokens = static_cast<double>(plan.contexts[i]) * static_cast<double>(plan.batch);
      row.push_back(format_count(size.bytes[i]));
      row.push_back(format_gib(size.bytes[i]));
      row.push_back(fmt::format("{:.1f}", static_cast<double>(size.bytes[i]) / tokens));
      row.push_back(format_ratio(plan.caches.front().bytes[i], size.bytes[i]));
    }
    table.add(row);
  }
  fmt::print("{}", table.format());
}

void print_weights(const SizePlan& plan) {
  if (plan.weights.empty()) return;
  fmt::print("\nweights: {} parameters, {} of them quantized by TQ3\n\n",
             format_count(plan.parameters), format_count(plan.quantized_parameters));
  Table table({"form", "bytes", "GiB", "bits/weight", "less by"});
  for (const WeightSize& size : plan.weights) {
    table.add({size.name, format_count(size.bytes), format_gib(size.bytes),
               fmt::format("{:.3f}", 8 * static_cast<double>(size.bytes) /
                                         static_cast<double>(plan.parameters)),
               format_ratio(plan.weights.front().bytes, size.bytes)});
  }
  fmt::print("{}", table.format());
}

void print_plan(const SizePlan& plan, const std::string& name, const ModelConfig& config) {
  fmt::print("{}: {}, {} layers\n", name, config.model_type, plan.layers);
  for (const CacheShape& shape : plan.shapes) {
    const std::string rows = plan.latent ? fmt::format("a latent row of {}", shape.k_dim)
                                         : fmt::format("{} KV heads, K of {}, V of {}", shape.heads,
                                                       shape.k_dim, shape.v_dim);
    fmt::print("  {} layers: {}{}\n", shape.layers, rows,
               shape.window ? fmt::format(", a window of {} tokens", *shape.window) : "");
  }
  fmt::print("\nKV cache, {}\n\n",
             plan.batch == 1 ? "one sequence"
                             : fmt::format("{} sequences",
                                           format_count(static_cast<std::uint64_t>(plan.batch))));
  print_caches(plan);
  print_weights(plan);
  fmt::print("\n");
  for (const CacheSize& size : plan.caches) {
    if (size.kind == SizeKind::kGiven) fmt::print("given: {}\n", size.text);
  }
  for (const std::string& note : plan.notes) fmt::print("note: {}\n", note);
  for (const CacheSize& size : plan.caches) {
    if (!size.refused.empty()) fmt::print("-: {}: {}\n", size.name, size.refused);
  }
}

ExitCode run(Options options) {
  if (options.scheme.first_given()) options.size.scheme = options.scheme.resolve();
  const std::string dir = find_model_dir(options.model);
  const ModelConfig config = read_model_config(dir, ConfigUse::kSizes);
  const SizePlan plan = plan_size(config, options.size);
  if (options.json) {
    fmt::print("{}\n", format_size_json(plan, model_name(dir), config));
  } else {
    print_plan(plan, model_name(dir), config);
  }
  return ExitCode::kDone;
}

}  // namespace

void add_size(CLI::App& app, Command& command) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand(
      "size", "count the bytes of a model's KV cache and weights by scheme and context length");
  sub->footer(
      "Example: tq size --model DIR --contexts 8192,131072 --batch 4\n"
      "Only config.json is read. A scheme option adds the row 'given'. What is counted: "
      "docs/models.md.");
  sub->add_option("--model", options->model,
                  "directory with config.json, or a hub id in the local Hugging Face cache")
      ->type_name("DIR")
      ->required();
  sub->add_option("--contexts", options->size.contexts,
                  "tokens of a sequence, 1..2147483648 each, such as 4096,32768")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 31));
  sub->add_option("--batch", options->size.batch, "sequences, 1..1048576")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20));
  options->scheme.declare(*sub);
  sub->add_flag("--json", options->json, "print JSON");
  sub->callback([options, &command] { command = [options] { return run(*options); }; });
}

}  // namespace tq::cli
