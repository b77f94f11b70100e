// tq unpack-kv: .tq3 file -> KV dump; with --layout, raw dump of another system's compressed cache
// -> KV dump.
#include <fmt/format.h>

#include <limits>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "lib/pack/import_kv.h"
#include "lib/pack/pack_kv.h"

namespace tq::cli {
namespace {

/// --layout and the options that go with it.
struct LayoutOptions {
  std::string layout;
  int dim = 0;
  int heads = 0;
  int bits = 0;
  std::int64_t tokens = 0;
  std::string part;
  int layer = 0;
  std::string rotation;
  std::uint32_t seed = 0;
  std::string codebook;
  CLI::Option* given_tokens = nullptr;
  CLI::Option* given_seed = nullptr;

  void declare(CLI::App& app);
  KvImportOptions resolve(DType dtype) const;
};

struct Options {
  std::string input;
  std::string output;
  std::string dtype;
  LayoutOptions foreign;
  ThreadOption threads;
  DeviceOption device;
  bool force = false;
  bool dry_run = false;
  bool quiet = false;
};

void LayoutOptions::declare(CLI::App& app) {
  const std::string group = "Raw dumps of other systems (docs/foreign-layouts.md)";
  std::vector<std::string> names;
  for (const ForeignLayout& known : foreign_layouts()) names.emplace_back(known.name);
  CLI::Option* given =
      app.add_option("--layout", layout, "how codes and norms lie in IN, a raw dump")
          ->check(CLI::IsMember(names))
          ->group(group);
  const auto add = [&](CLI::Option* option) {
    return option->default_str("")->needs(given)->group(group);
  };
  CLI::Option* needed[] = {
      add(app.add_option("--dim", dim, "elements of a row, 8..1024")
              ->check(CLI::Range(kMinDim, kMaxRowDim))),
      add(app.add_option("--heads", heads, "kv heads, 1..65536")
              ->check(CLI::Range(1, kMaxForeignHeads))),
      add(app.add_option("--bits", bits, "bits of a code, 2..4")->check(CLI::Range(2, 4)))};
  for (CLI::Option* option : needed) given->needs(option);
  given_tokens = add(app.add_option("--tokens", tokens,
                                    "tokens, 1..2^63-1; default: all that the file has room for")
                         ->check(CLI::PositiveNumber));
  add(app.add_option("--part", part, "k or v; default: both, where the layout holds both")
          ->check(CLI::IsMember({"k", "v"})));
  add(app.add_option("--layer", layer, "layer number L of the names k.L, v.L, 0..2^31-1; default 0")
          ->check(CLI::Range(0, std::numeric_limits<int>::max())));
  add(app.add_option("--rotation", rotation,
                     "rht1 (H D), rht2 (D H D) or qr; default: the layout's")
          ->check(CLI::IsMember({"rht1", "rht2", "qr"})));
  given_seed =
      add(app.add_option("--seed", seed, "seed of the rotation, 0..2^32-1; default: the layout's")->check(not_empty()));
  add(app.add_option("--codebook", codebook,
                     "vj, beta, gaussian, gaussian-3-sigma or equal-probability, alone or as "
                     "beta-d128-b4, or a file with the levels (as tq codebook --check reads); "
                     "default: the layout's"));
}

KvImportOptions LayoutOptions::resolve(DType dtype) const {
  KvImportOptions options;
  options.layout = layout;
  options.shape = {dim, heads, bits, std::nullopt};
  if (given_tokens->count() > 0) options.shape.tokens = tokens;
  if (!part.empty()) options.part = part == "k" ? KvPart::kKeys : KvPart::kValues;
  options.layer = layer;
  if (!rotation.empty()) options.rotation = parse_rotation(rotation);
  if (given_seed->count() > 0) options.seed = seed;
  options.codebook = codebook;
  options.dtype = dtype;
  return options;
}

std::uint64_t coded_bytes(const KvFile& file) {
  std::uint64_t bytes = 0;
  for (const PackedLayer& layer : file.layers()) {
    for (const PackedTensor* t : {&layer.k, &layer.v}) bytes += t->bytes();
  }
  return bytes;
}

ExitCode run_import(const Options& options) {
  const KvImportOptions said =
      options.foreign.resolve(parse_output_dtype(options.dtype).value_or(DType::kF32));
  const KvImport import = open_import(options.input, said);
  std::string names;
  for (const KvImport::Tensor& tensor : import.tensors) names += tensor.spec.name + " ";
  const std::string summary = fmt::format(
      "{}from layout {}, {} heads, {} tokens: {} bytes -> {} bytes", names, said.layout,
      import.file.heads(), format_count(static_cast<std::uint64_t>(import.file.tokens())),
      format_count(import.file.file().size()), format_count(import.output_bytes()));
  check_output(options.input, options.output, options.force);
  if (options.dry_run) {
    fmt::print("{}\nnothing was written (--dry-run)\n", summary);
    return ExitCode::kDone;
  }
  const Device device = options.device.open();
  ProgressBar bar("unpack-kv", import.input_bytes(), ProgressBar::Unit::kBytes, options.quiet);
  import_kv(import, *device.backend, options.output,
            {options.threads.threads, options.force, bar.callback()});
  const std::string rate = bar.finish();
  say(options.quiet, fmt::format("{}: {}; {}, {}", options.output, summary, device.backend->name(), rate));
  return ExitCode::kDone;
}

ExitCode run(const Options& options) {
  if (!options.foreign.layout.empty()) return run_import(options);
  const KvFile file = KvFile::open(options.input);
  const std::optional<DType> dtype = parse_output_dtype(options.dtype);
  const std::string summary = fmt::format("{} layers: {} bytes -> {} bytes", file.layers().size(),
                                          format_count(file.file().file().size()),
                                          format_count(unpacked_bytes(file, dtype)));
  check_output(options.input, options.output, options.force);
  if (options.dry_run) {
    fmt::print("{}\nnothing was written (--dry-run)\n", summary);
    return ExitCode::kDone;
  }
  const Device device = options.device.open();
  ProgressBar bar("unpack-kv", coded_bytes(file), ProgressBar::Unit::kBytes, options.quiet);
  unpack_kv(file, dtype, *device.backend, options.output,
            {options.threads.threads, options.force, bar.callback()});
  const std::string rate = bar.finish();
  say(options.quiet, fmt::format("{}: {}; {}, {}", options.output, summary, device.backend->name(), rate));
  if (file.layers().front().k.parts.front().scheme.rows.qjl) {
    warn("K carries QJL sketches, and what was written is the codes plus the sketch: inner products with it are unbiased, "
         "but it is further from the original keys than the codes alone");
  }
  return ExitCode::kDone;
}

}  // namespace

void add_unpack_kv(CLI::App& app, Command& command) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand(
      "unpack-kv", "reconstruct a KV dump from a .tq3 file, or from a raw dump of another system");
  sub->footer(
      "Examples: tq unpack-kv cache.tq3 -o cache.safetensors --dtype f32\n"
      "          tq unpack-kv page.bin -o cache.safetensors --layout ac-page --dim 128 --heads 8 "
      "--bits 4");
  sub->add_option("IN", options->input, "the .tq3 file; with --layout the raw dump")->required();
  sub->add_option("-o,--output", options->output,
                  "the safetensors file to write: the names, shapes and metadata that went in")
      ->required();
  sub->add_option(
         "--dtype", options->dtype,
         "type of the values: f32, f16 or bf16; default: that which went in, and with --layout f32")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}));
  options->foreign.declare(*sub);
  options->threads.declare(*sub);
  options->device.declare(*sub);
  sub->add_flag("--force", options->force, "overwrite the output");
  sub->add_flag("--dry-run", options->dry_run, "print the exact bytes and write nothing");
  sub->add_flag("--quiet", options->quiet, "no progress and no summary on stderr");
  sub->callback([options, &command] { command = [options] { return run(*options); }; });
}

}  // namespace tq::cli
