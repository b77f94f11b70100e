// tq pack-kv: KV dump -> .tq3 file.
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
  SchemeOptions scheme;
  ThreadOption threads;
  DeviceOption device;
  bool force = false;
  bool dry_run = false;
  bool quiet = false;
};

ExitCode run(const Options& options) {
  const KvSchemeOptions scheme = options.scheme.resolve();
  if (KvFile::claims(SafetensorsFile::open(options.input))) {
    throw Error(fmt::format("{}: is a .tq3 file already; 'tq unpack-kv' turns it into a dump", options.input));
  }
  const KvDump dump = KvDump::open(options.input);
  const KvPlan plan = plan_kv(dump, scheme);
  const std::string summary =
      fmt::format("{} layers, K {:.4g} bits, V {:.4g} bits: {} bytes -> {} bytes ({:.2f}x)", dump.layers().size(), plan.k_bits,
                  plan.v_bits, format_count(plan.input_bytes), format_count(plan.total_bytes),
                  static_cast<double>(plan.input_bytes) / static_cast<double>(plan.total_bytes));
  check_output(options.input, options.output, options.force);
  if (options.dry_run) {
    fmt::print("{}\nnothing was written (--dry-run)\n", summary);
    return ExitCode::kDone;
  }
  const Device device = options.device.open();
  const Backend& backend = *device.backend;
  ProgressBar bar("pack-kv", plan.input_bytes, ProgressBar::Unit::kBytes, options.quiet);
  pack_kv(dump, plan, backend, options.output, {options.threads.threads, options.force, bar.callback()});
  const std::string rate = bar.finish();
  say(options.quiet, fmt::format("{}: {}; {}, {}", options.output, summary, backend.name(), rate));
  return ExitCode::kDone;
}

}  // namespace

void add_pack_kv(CLI::App& app, Command& command) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("pack-kv", "compress a captured KV dump into a .tq3 file");
  sub->footer("Example: tq pack-kv docs/samples/smollm2-135m-instruct.safetensors -o cache.tq3 --k-bits 4 --v-bits 3");
  sub->add_option("IN", options->input, "KV dump: safetensors with k.L, v.L [kv_heads, tokens, head_dim] of each layer L, "
                                        "in F32, F16 or BF16 (queries q.L are not packed)")->required();
  sub->add_option("-o,--output", options->output, "the .tq3 file to write")->required();
  options->scheme.declare(*sub);
  options->threads.declare(*sub);
  options->device.declare(*sub);
  sub->add_flag("--force", options->force, "overwrite the output");
  sub->add_flag("--dry-run", options->dry_run, "print the exact bytes and write nothing");
  sub->add_flag("--quiet", options->quiet, "no progress and no summary on stderr");
  sub->callback([options, &command] { command = [options] { return run(*options); }; });
}

}  // namespace tq::cli
