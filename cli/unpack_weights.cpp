// tq unpack-weights: native TQ3 checkpoint -> an ordinary checkpoint.
#include "lib/pack/unpack_weights.h"

#include <fmt/format.h>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/terminal.h"

namespace tq::cli {
namespace {

struct Options {
  std::string input;
  std::string output;
  std::string dtype;
  std::string max_shard_size = "5GiB";
  ThreadOption threads;
  DeviceOption device;
  bool force = false;
  bool dry_run = false;
  bool quiet = false;
};

ExitCode run(const Options& options) {
  UnpackWeightsOptions what;
  what.dtype = parse_output_dtype(options.dtype);
  what.max_shard_bytes = parse_size("--max-shard-size", options.max_shard_size);
  const Device device = options.device.open();
  const Backend& backend = *device.backend;
  const WeightReader reader = WeightReader::open(find_model_dir(options.input), backend);
  const UnpackWeightsPlan plan = plan_unpacked_weights(reader, what);
  check_unpack_target(reader, options.output, options.force);
  std::uint64_t stored = 0;
  for (const SafetensorsFile& shard : reader.checkpoint().shards()) stored += shard.file().size();
  const std::string summary = fmt::format("{} tensors: {} bytes -> {} bytes in {} file{}", reader.tensors().size(),
                                          format_count(stored), format_count(plan.file_bytes()), plan.shards.size(),
                                          plan.shards.size() == 1 ? "" : "s");
  if (plan.config.empty()) warn(options.input + ": has no config.json, so loaders will not know the model");
  if (options.dry_run) {
    for (const auto& shard : plan.shards) {
      fmt::print("{}  {} bytes, {} tensors\n", shard.name, format_count(shard.bytes), shard.items.size());
    }
    fmt::print("{}\nnothing was written (--dry-run)\n", summary);
    return ExitCode::kDone;
  }
  ProgressBar bar("unpack-weights", plan.tensor_bytes, ProgressBar::Unit::kBytes, options.quiet);
  unpack_weights(reader, plan, options.output, {options.threads.threads, options.force, bar.callback()});
  const std::string rate = bar.finish();
  say(options.quiet, fmt::format("{}: {}{}; {}, {}", options.output, summary,
                                 reader.has_hashes() ? ", every hash checked" : "", backend.name(), rate));
  return ExitCode::kDone;
}

}  // namespace

void add_unpack_weights(CLI::App& app, Command& command) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("unpack-weights", "make an ordinary checkpoint from a native TQ3 checkpoint");
  sub->footer("Example: tq unpack-weights ./Llama-3.1-8B-tq3 -o ./Llama-3.1-8B-restored --dtype bf16");
  sub->add_option("TQ3_DIR", options->input,
                  "directory that tq pack-weights or the published converter wrote, or its id in the local Hugging Face cache")
      ->required();
  sub->add_option("-o,--output", options->output, "directory to write: weights, config.json without the quantization, and the "
                                                  "tokenizer's files")
      ->required();
  sub->add_option("--dtype", options->dtype,
                  "type of all floating-point tensors: bf16, f16 or f32; default: each its own again, where the checkpoint tells "
                  "it, else config.json's")
      ->check(CLI::IsMember({"bf16", "f16", "f32"}));
  sub->add_option("--max-shard-size", options->max_shard_size,
                  "most bytes of tensors in a file: a number with KB, MB, GB, KiB, MiB or GiB");
  options->threads.declare(*sub);
  options->device.declare(*sub);
  sub->add_flag("--force", options->force, "replace the model that is in the output directory, once the new one is whole");
  sub->add_flag("--dry-run", options->dry_run, "print the exact bytes of every file and write nothing");
  sub->add_flag("--quiet", options->quiet, "no progress and no summary on stderr");
  sub->callback([options, &command] { command = [options] { return run(*options); }; });
}

}  // namespace tq::cli
