// tq capture: a model's queries, keys and values as a KV dump.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/prompt_options.h"
#include "cli/terminal.h"
#include "lib/model/capture.h"

namespace tq::cli {
namespace {

struct Options {
  std::string model;
  std::string output;
  PromptArguments prompt;
  std::optional<std::int64_t> tokens;
  std::string layers;
  bool no_queries = false;
  ThreadOption threads;
  DeviceOption device;
  bool force = false;
  bool quiet = false;
};

ExitCode run(const Options& options) {
  CaptureOptions capture;
  if (!options.layers.empty()) capture.layers = parse_layers(options.layers);
  capture.queries = !options.no_queries;
  capture.mla_latent = options.prompt.mla_latent();
  capture.overwrite = options.force;
  capture.threads = options.threads.threads;
  const Model model = Model::open(options.model);
  const Prompt prompt = read_prompt(model, options.prompt.resolve(options.tokens));
  const ModelDevice device = DeviceOption::open_model(options.device.open());
  capture.device = device.forward.get();
  ProgressBar bar("capture", model.layout().layer_bytes, ProgressBar::Unit::kBytes, options.quiet);
  capture.progress = bar.callback();
  const CaptureResult result = capture_kv(model, prompt, options.output, capture);
  const std::string rate = bar.finish();
  const std::string reads = prompt.ids.size() > 1 ? fmt::format("perplexity {:.4g}", result.perplexity) : "no predictions";
  say(options.quiet, fmt::format("{}: {}, {}, {}: {} bytes; weights {}", options.output, model_name(model),
                                 describe_tokens(std::ssize(prompt.ids), prompt.available, prompt.source), reads,
                                 format_count(result.bytes), rate));
  return ExitCode::kDone;
}

}  // namespace

void add_capture(CLI::App& app, Command& command) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("capture", "run a model on a text, and write the queries, keys and values of its attention");
  sub->footer("Example: tq capture --model DIR -o dump.safetensors --tokens 512 --layers 0,10-12\n"
              "The dump is what 'tq verify --kv' and 'tq pack-kv' read. Families: docs/models.md.");
  sub->add_option("--model", options->model, "directory with config.json, safetensors and tokenizer.json, or a hub id in the "
                                             "local Hugging Face cache")->type_name("DIR")->required();
  sub->add_option("-o,--output", options->output, "the dump to write: q.L, k.L, v.L in F32, as attention reads them")->required();
  options->prompt.declare(*sub, nullptr);
  sub->add_option("--tokens", options->tokens, "the first N tokens of the text, 1..2147483648 but no more than the model's context (default up to 128)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 31))->default_str("");
  sub->add_option("--layers", options->layers, "layers to write, such as 0,5,10-12 (default all)")->default_str("");
  sub->add_flag("--no-queries", options->no_queries, "leave out q.L: a smaller dump, without attention metrics");
  options->threads.declare(*sub);
  options->device.declare(*sub, DeviceOption::Runs::kModels);
  sub->add_flag("--force", options->force, "overwrite the output");
  sub->add_flag("--quiet", options->quiet, "no progress and no summary on stderr");
  sub->callback([options, &command] { command = [options] { return run(*options); }; });
}

}  // namespace tq::cli
