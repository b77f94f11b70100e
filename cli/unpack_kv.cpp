// tq unpack-kv: .tq3 file -> KV dump.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "lib/pack/pack_kv.h"

namespace tq::cli {
namespace {

struct Options {
  std::string input;
  std::string output;
  std::string dtype;
  ThreadOption threads;
  bool force = false;
  bool dry_run = false;
  bool quiet = false;
};

std::optional<DType> parse_output_dtype(const std::string& name) {
  if (name.empty()) return std::nullopt;
  return name == "f32" ? DType::kF32 : name == "f16" ? DType::kF16 : DType::kBf16;
}

std::uint64_t coded_bytes(const KvFile& file) {
  std::uint64_t bytes = 0;
  for (const PackedLayer& layer : file.layers()) {
    for (const PackedTensor* t : {&layer.k, &layer.v}) bytes += t->codes->bytes + t->norms->bytes;
  }
  return bytes;
}

ExitCode run(const Options& options) {
  const KvFile file = KvFile::open(options.input);
  const std::optional<DType> dtype = parse_output_dtype(options.dtype);
  const std::string summary = fmt::format("{} layers: {} bytes -> {} bytes", file.layers().size(),
                                          format_count(file.file().file().size()), format_count(unpacked_bytes(file, dtype)));
  if (options.dry_run) {
    fmt::print("{}\nnothing was written (--dry-run)\n", summary);
    return ExitCode::kDone;
  }
  const auto backend = make_cpu_backend();
  ProgressBar bar("unpack-kv", coded_bytes(file), ProgressBar::Unit::kBytes, options.quiet);
  unpack_kv(file, dtype, *backend, options.output, {options.threads.threads, options.force, bar.callback()});
  say(options.quiet, fmt::format("{}: {}; {}, {}", options.output, summary, backend->name(), bar.describe_rate()));
  return ExitCode::kDone;
}

}  // namespace

void add_unpack_kv(CLI::App& app, Command& command) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("unpack-kv", "reconstruct a KV dump from a .tq3 file");
  sub->footer("Example: tq unpack-kv cache.tq3 -o cache.safetensors --dtype f32");
  sub->add_option("IN", options->input, "the .tq3 file")->required();
  sub->add_option("-o,--output", options->output, "the safetensors file to write: the names, shapes and metadata that went in")
      ->required();
  sub->add_option("--dtype", options->dtype, "type of the values: f32, f16 or bf16; default: that which went in")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}));
  options->threads.declare(*sub);
  sub->add_flag("--force", options->force, "overwrite the output");
  sub->add_flag("--dry-run", options->dry_run, "print the exact bytes and write nothing");
  sub->add_flag("--quiet", options->quiet, "no progress and no summary on stderr");
  sub->callback([options, &command] { command = [options] { return run(*options); }; });
}

}  // namespace tq::cli
