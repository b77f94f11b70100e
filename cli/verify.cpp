// tq verify: measures what compression costs, and judges it.
#include <fmt/format.h>

#include <cmath>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "cli/verify_compare.h"
#include "cli/verify_model.h"
#include "cli/verify_paper.h"
#include "cli/verify_table.h"
#include "cli/verify_weights.h"
#include "lib/verify/report_json.h"
#include "lib/verify/verify_kv.h"

namespace tq::cli {
namespace {

struct Options {
  std::string kv;
  std::string packed;
  std::string weights;
  std::string against;
  ModelArguments model;
  std::optional<std::int64_t> tokens;
  CompareArguments compare;
  WeightGateOptions weight_gates;
  bool synthetic = false;
  SyntheticShape shape;
  std::vector<int> dims;             ///< of --synthetic one
  std::optional<std::uint32_t> seed;
  PaperArguments paper;
  SchemeOptions scheme;
  GateOptions gates;
  ThreadOption threads;
  DeviceOption device;
  std::int64_t attention_queries = 512;
  bool per_head = false;
  bool json = false;
  bool quiet = false;
};

/// K and V are compressed: always, but where only weights are exchanged.
bool compresses_cache(const Options& options) {
  return options.model.with_weights.empty() || options.scheme.first_given().has_value();
}

/// A comparison has schemes of its own, and judges nothing.
void check_compare(const Options& options, bool gates_cache) {
  if (options.compare.schemes.empty()) return;
  if (options.kv.empty() && options.model.model.empty()) throw UsageError("--compare goes with --kv or --model");
  if (const auto name = options.scheme.first_given()) {
    throw UsageError(fmt::format("{} does not go with --compare: write it into the scheme's name, such as k4v3+center", *name));
  }
  if (options.json && options.compare.markdown) throw UsageError("--json and --markdown do not go together");
  if (options.per_head) throw UsageError("--per-head does not go with --compare, whose rows are schemes");
  if (gates_cache || options.gates.max_rel_mse_ratio || options.model.gates.any() || !options.model.with_weights.empty()) {
    throw UsageError("--compare measures and does not judge: gates and --with-weights go without it");
  }
}

void check_source(const Options& options) {
  const int sources = (options.kv.empty() ? 0 : 1) + (options.packed.empty() ? 0 : 1) + (options.weights.empty() ? 0 : 1) +
                      (options.synthetic ? 1 : 0) + (options.model.model.empty() ? 0 : 1) + (options.paper.paper ? 1 : 0);
  if (sources != 1) {
    throw UsageError("verify needs exactly one source: --model DIR, --kv DUMP, --packed FILE --against DUMP, --weights DIR "
                     "--against MODEL, --synthetic, or --paper");
  }
  if (!options.synthetic && !options.paper.paper && (options.seed || !options.dims.empty())) {
    throw UsageError(fmt::format("{} requires --synthetic or --paper", options.seed ? "--seed" : "--dim"));
  }
  if (options.synthetic && options.dims.size() > 1) throw UsageError("--dim: --synthetic has one");
  if (options.packed.empty() == options.weights.empty() && !options.against.empty()) {
    throw UsageError("--against goes with --packed or --weights");
  }
  if (!(options.packed.empty() && options.weights.empty()) && options.against.empty()) {
    throw UsageError(fmt::format("{} needs --against", options.packed.empty() ? "--weights" : "--packed"));
  }
  if (options.weight_gates.max_rel_mse && options.weights.empty()) throw UsageError("--max-rel-mse goes with --weights");
  if (options.synthetic && (options.gates.max_attention_kl || options.gates.min_attention_top1)) {
    throw UsageError("--max-attention-kl and --min-attention-top1 need queries, and --synthetic has none");
  }
  if (options.tokens && !options.synthetic && options.model.model.empty()) {
    throw UsageError("--tokens goes with --model or --synthetic; a dump has its own");
  }
  constexpr std::int64_t kMostSyntheticTokens = 1000000;
  if (options.synthetic && options.tokens.value_or(1) > kMostSyntheticTokens) {
    throw UsageError(fmt::format("--tokens with --synthetic is at most {}", kMostSyntheticTokens));
  }
  constexpr std::int64_t kMostSyntheticValues = std::int64_t{1} << 27;
  if (options.synthetic && options.tokens.value_or(options.shape.tokens) * options.shape.k_dim > kMostSyntheticValues) {
    throw UsageError(fmt::format("--tokens times --dim is at most {}", kMostSyntheticValues));
  }
  const GateOptions& g = options.gates;
  const bool gates_cache = g.threshold || g.min_token_cosine || g.max_attention_kl || g.min_attention_top1;
  if (!compresses_cache(options) && (gates_cache || g.max_rel_mse_ratio || options.per_head)) {
    throw UsageError("--with-weights alone leaves K and V as they are, and there is nothing to say of each; give a scheme, "
                     "such as --bits 4, or use --max-kld, --max-ppl-ratio or --min-token-top1");
  }
  check_compare(options, gates_cache);
  if (options.packed.empty() && options.weights.empty()) return;
  if (const auto name = options.scheme.first_given()) {
    throw UsageError(fmt::format("{} does not go with {}: the scheme is the file's", *name,
                                 options.packed.empty() ? "--weights" : "--packed"));
  }
  if (!options.weights.empty() && gates_cache) {
    throw UsageError("--weights has the gates --max-rel-mse and --max-rel-mse-ratio; the others are for KV caches");
  }
}

VerifyOptions make_verify_options(const Options& options, ProgressBar& bar) {
  VerifyOptions verify;
  verify.scheme = options.scheme.resolve();
  verify.gates = options.gates;
  verify.measure.threads = options.threads.threads;
  verify.measure.attention_queries = options.attention_queries;
  verify.measure.progress = bar.callback();
  return verify;
}

std::uint64_t count_heads(const KvDump& dump) {
  std::uint64_t heads = 0;
  for (const KvLayer& layer : dump.layers()) heads += static_cast<std::uint64_t>(layer.k.heads);
  return heads;
}

VerifyReport measure(const Options& options) {
  if (!options.model.model.empty()) {
    ProgressBar none("", 0, ProgressBar::Unit::kHeads, true);
    return measure_model(options.model, options.tokens, make_verify_options(options, none), compresses_cache(options),
                         options.device.open(), options.quiet);
  }
  const Device device = options.device.open();
  const Backend& backend = *device.backend;
  if (options.synthetic) {
    const std::uint64_t heads = static_cast<std::uint64_t>(options.shape.layers) * static_cast<std::uint64_t>(options.shape.kv_heads);
    ProgressBar bar("verify", heads, ProgressBar::Unit::kHeads, options.quiet);
    return verify_synthetic(options.shape, make_verify_options(options, bar), backend);
  }
  const KvDump dump = KvDump::open(options.kv.empty() ? options.against : options.kv);
  ProgressBar bar("verify", count_heads(dump), ProgressBar::Unit::kHeads, options.quiet);
  const ModelDevice on_device = DeviceOption::open_model(device);
  VerifyOptions verify = make_verify_options(options, bar);
  verify.measure.attention = on_device.attention;
  if (!options.kv.empty()) return verify_dump(dump, verify, backend);
  return verify_packed(KvFile::open(options.packed), dump, verify, backend);
}

ExitCode run_paper(Options& options) {
  const GateOptions& g = options.gates;
  if (g.threshold || g.min_token_cosine || g.max_rel_mse_ratio || g.max_attention_kl || g.min_attention_top1 || options.weight_gates.max_rel_mse) {
    throw UsageError("--paper has no gates to set: its limits are the theorems'");
  }
  if (const auto name = options.scheme.first_given("--bits")) {
    throw UsageError(fmt::format("{} does not go with --paper, which says what it measures; --bits does", *name));
  }
  PaperOptions& paper = options.paper.options;
  if (!options.dims.empty()) paper.dims = options.dims;
  if (const auto bits = options.scheme.given_bits(); !bits.empty()) paper.bits = bits;
  if (options.seed) paper.settings.seed = *options.seed;
  paper.settings.threads = options.threads.threads;
  return run_verify_paper(paper, *options.device.open().backend, options.json, options.quiet);
}

ExitCode run(Options options) {
  if (options.dims.size() == 1) options.shape.k_dim = options.shape.v_dim = options.dims.front();
  if (options.seed) options.shape.seed = *options.seed;
  check_source(options);
  if (options.paper.paper) return run_paper(options);
  if (options.model.check) return check_model(options.model, options.json);
  if (!options.compare.schemes.empty()) {
    return run_compare(options.compare, options.kv, options.model, options.tokens, options.threads.threads,
                       options.device.open(), options.attention_queries, options.json, options.quiet);
  }
  if (!options.weights.empty()) {
    options.weight_gates.max_rel_mse_ratio = options.gates.max_rel_mse_ratio;
    return run_verify_weights({options.weights, options.against, options.weight_gates, options.threads.threads, options.json,
                               options.quiet},
                              *options.device.open().backend);
  }
  if (options.tokens) options.shape.tokens = *options.tokens;
  const VerifyReport report = measure(options);
  const ExitCode code = exit_code_of(report.verdict);
  if (options.json) {
    fmt::print("{}\n", format_report_json(report, static_cast<int>(code)));
    for (const std::string& warning : report.warnings) warn(warning);
  } else {
    fmt::print("{}", format_report_table(report, options.per_head));
  }
  return code;
}

/// With --json stdout is never empty: a gate that reads it finds what went wrong. (--check answers for itself.)
ExitCode run_for_json(const Options& options) {
  const auto print = [&](const Error& error, const ModelNumbers* numbers) {
    if (!options.model.check) fmt::print("{}\n", format_error_json(error.what(), numbers));
  };
  try {
    return run(options);
  } catch (const InvalidMeasurement& error) {
    print(error, &error.numbers);
    throw;
  } catch (const Error& error) {
    print(error, nullptr);
    throw;
  }
}

void declare_sources(CLI::App& sub, Options& options) {
  const char* group = "Source (exactly one)";
  options.model.declare(sub, group);
  sub.add_option("--kv", options.kv, "a KV dump: compress it in memory, and compare")->group(group);
  sub.add_option("--packed", options.packed, "a .tq3 file: what is really in it, compared with --against")->group(group);
  sub.add_option("--weights", options.weights,
                 "a native TQ3 checkpoint: what is really in it, tensor by tensor, compared with --against")->group(group);
  sub.add_option("--against", options.against,
                 "the KV dump that --packed was made from, or the directory of the model that --weights was made from")
      ->group(group);
  CLI::Option* synthetic = sub.add_flag("--synthetic", options.synthetic, "Gaussian rows: tests the codec, and says nothing of any model")->group(group);
  const auto synthetic_option = [&](const char* name, auto& value, const char* help, auto low, auto high) {
    sub.add_option(name, value, help)->check(CLI::Range(low, high))->needs(synthetic)->group("With --synthetic");
  };
  options.paper.declare(sub, group);
  sub.add_option("--dim", options.dims, "head_dim, 8..1024 (default 128); with --paper one or more (default 64 128 256)")->default_str("128")
      ->check(CLI::Range(kMinDim, kMaxRowDim))->group("With --synthetic or --paper");
  synthetic_option("--heads", options.shape.kv_heads, "KV heads, 1..1024", std::int64_t{1}, std::int64_t{1024});
  synthetic_option("--layers", options.shape.layers, "layers, 1..1024", 1, 1024);
  sub.add_option("--tokens", options.tokens, "with --model: the first N tokens of the text, in windows (default up to 128); with --synthetic: rows of a head, 1..1000000 (default 1024)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 31))->default_str("")->group("With --model or --synthetic");
  sub.add_option("--seed", options.seed, "seed of the rows, 0..2^32-1 (default 1)")->check(not_empty())->group("With --synthetic or --paper");
}

void declare_gates(CLI::App& sub, GateOptions& gates, WeightGateOptions& weight_gates, ModelArguments& model) {
  const char* group = "Gates";
  sub.add_option("--threshold", gates.threshold,
                 "least cosine of a layer, K and V, flattened, -1..1 (default .99 when both have 4 bits or more, else "
                 "sqrt(1-D) - .005 of the narrower)")->check(finite_range(-1, 1))->group(group);
  sub.add_option("--min-token-cosine", gates.min_token_cosine, "least cosine of any token, -1..1 (default off)")
      ->check(finite_range(-1, 1))->group(group);
  sub.add_option("--max-rel-mse-ratio", gates.max_rel_mse_ratio,
                 "largest relative MSE over the codebook's exact D (default 1.1 with --synthetic, else off: one rotation "
                 "of real rows may lie far from D with a perfect codec)")->check(not_negative())->group(group);
  sub.add_option("--max-rel-mse", weight_gates.max_rel_mse, "largest relative MSE of a tensor (with --weights)")
      ->check(not_negative())->group(group);
  sub.add_option("--max-attention-kl", gates.max_attention_kl, "largest mean KL of the softmax of a layer, nats (needs queries)")
      ->check(not_negative())->group(group);
  sub.add_option("--min-attention-top1", gates.min_attention_top1,
                 "least share of queries of a layer whose top key stays the same, 0..1 (needs queries)")
      ->check(finite_range(0, 1))->group(group);
  model.declare_gates(sub, group);
}

}  // namespace

void add_verify(CLI::App& app, Command& command) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("verify", "measure what compression costs codec, attention, output and weights, and judge it");
  sub->footer("Examples: tq verify --model DIR --k-bits 4 --v-bits 3 --threshold 0.97\n"
              "          tq verify --model DIR --tokens 2048 --k-bits 4 --v-bits 3 --max-kld 0.05 --greedy 64\n"
              "          tq verify --model DIR --with-weights ./model-tq3 --max-ppl-ratio 1.1\n"
              "          tq verify --kv docs/samples/smollm2-135m-instruct.safetensors --k-bits 4 --v-bits 3\n"
              "          tq verify --packed cache.tq3 --against dump.safetensors --json\n"
              "          tq verify --weights ./model-tq3 --against ./model --max-rel-mse 0.04\n"
              "          tq verify --paper --dim 64 128 --bits 1,2,3,4\n"
              "Exit codes: 0 every gate passed; 1 a gate failed; 2 wrong usage; 3 could not be measured, or a gate passes a "
              "negative control.");
  declare_sources(*sub, *options);
  options->scheme.declare(*sub);
  options->compare.declare(*sub);
  declare_gates(*sub, options->gates, options->weight_gates, options->model);
  sub->add_option("--attention-queries", options->attention_queries,
                  "attention is measured on the last N queries of each head, 1..1000000")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1000000}));
  options->threads.declare(*sub);
  options->device.declare(*sub, DeviceOption::Runs::kModels);
  sub->add_flag("--per-head", options->per_head, "one line a head instead of a layer");
  sub->add_flag("--json", options->json, "print JSON (docs/verify.schema.json, with --weights docs/verify-weights.schema.json, with --paper and "
                                         "--compare docs/verification.md; where nothing could be measured docs/verify-error.schema.json); warnings "
                                         "go to stderr");
  sub->add_flag("--quiet", options->quiet, "no progress on stderr");
  sub->callback([options, &command] { command = [options] { return options->json ? run_for_json(*options) : run(*options); }; });
}

}  // namespace tq::cli
