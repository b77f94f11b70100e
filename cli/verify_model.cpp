#include "cli/verify_model.h"

#include <fmt/format.h>

#include <mutex>
#include <nlohmann/json.hpp>

#include "cli/options.h"
#include "cli/terminal.h"
#include "lib/model/capture.h"

namespace tq::cli {
namespace {

using Json = nlohmann::ordered_json;

std::uint64_t count_heads(const ModelConfig& config, bool mla_latent) {
  const std::int64_t heads = config.mla && mla_latent ? 1 : config.kv_heads;
  return config.layers.size() * static_cast<std::uint64_t>(heads);
}

std::int64_t count_windows(const ModelConfig& config) {
  std::int64_t count = 0;
  for (const LayerConfig& layer : config.layers) count += layer.window ? 1 : 0;
  return count;
}

/// Whether the default passage can be read; token ids always can.
Json describe_tokenizer(const Model& model) {
  try {
    read_prompt(model, {});
    return {{"supported", true}, {"reason", nullptr}};
  } catch (const Error& error) {
    return {{"supported", false}, {"reason", error.what()}};
  }
}

Json describe(const Model& model) {
  const ModelConfig& c = model.config();
  Json json = {{"supported", true},
               {"model", model_name(model)},
               {"family", c.model_type},
               {"layers", c.layers.size()},
               {"sliding_window_layers", count_windows(c)},
               {"heads", c.heads},
               {"kv_heads", c.kv_heads},
               {"k_dim", c.head_dim},
               {"v_dim", c.v_head_dim},
               {"context", c.context},
               {"vocabulary", c.vocab},
               {"tied_embeddings", model.layout().tied},
               {"layer_bytes", model.layout().layer_bytes}};
  json["tokenizer"] = describe_tokenizer(model);
  json["latent"] = c.mla ? Json{{"kv_rank", c.mla->kv_rank}, {"rope_dim", c.mla->rope_dim}} : Json(nullptr);
  return json;
}

std::string format_value(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_object() || !value.contains("reason")) return value.dump();
  if (value["reason"].is_null()) return "supported";
  return fmt::format("not supported (--token-ids works without one): {}", value["reason"].get<std::string>());
}

}  // namespace

void ModelArguments::declare(CLI::App& app, const char* source_group) {
  option_ = app.add_option("--model", model,
                           "a model's directory, or a hub id in the local Hugging Face cache: run it on a text, compress what "
                           "its attention reads, and see what that does to its output")
                ->type_name("DIR")->group(source_group)->default_str("");
  prompt.declare(app, option_);
  const char* group = "With --model";
  app.add_option("--with-weights", with_weights,
                 "native TQ3 weights of the same model: the second pass uses them. The cache is compressed as well where a scheme "
                 "is given, such as by --bits; else it stays exact, and only the output is measured")
      ->type_name("TQ3_DIR")->default_str("")->needs(option_)->group(group);
  app.add_option("--window", window,
                 "cut the text into windows of that many tokens, special ones included, each read on its own; 2.. the model's "
                 "context (default 2048, or the context). Codec and attention are measured on the first")
      ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 31))->default_str("")->needs(option_)->group(group);
  app.add_option("--greedy", greedy,
                 "tokens that the model writes after the first window, 1..65536: say where greedy decoding first departs from "
                 "them (default off)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{65536}))->default_str("")->needs(option_)->group(group);
  app.add_flag("--allow-random", allow_random, "measure also a model whose perplexity on the text is above 200, or on fewer than "
                                               "127 predictions (random weights)")->needs(option_)->group(group);
  app.add_flag("--check", check, "say whether tq can run the model, and measure nothing")->needs(option_)->group(group);
}

void ModelArguments::declare_gates(CLI::App& app, const char* group) {
  const auto gate = [&](const char* name, std::optional<double>& limit, const char* help) {
    return app.add_option(name, limit, help)->needs(option_)->group(group);
  };
  gate("--max-kld", gates.max_kld, "largest mean KL of the next token, nats (with --model; the upper end of its 95 % interval)")
      ->check(not_negative());
  gate("--max-ppl-ratio", gates.max_ppl_ratio, "largest perplexity over the reference's (with --model; the upper end)")
      ->check(not_negative());
  gate("--min-token-top1", gates.min_token_top1, "least share of tokens whose most likely successor stays the same, 0..1 (with "
                                                 "--model; the lower end)")->check(finite_range(0, 1));
}

VerifyReport measure_model(const ModelArguments& arguments, std::optional<std::int64_t> tokens, VerifyOptions options,
                           bool cache, const Device& device, bool quiet) {
  const Model model = Model::open(arguments.model);
  const TextWindows text = read_windows(model, arguments.prompt.resolve(tokens), arguments.window);
  VerifyModelOptions run;
  run.effect.mla_latent = arguments.prompt.mla_latent();
  run.effect.allow_random = arguments.allow_random;
  run.effect.greedy = arguments.greedy;
  run.effect_gates = arguments.gates;
  run.cache = cache;
  const ModelDevice on_device = DeviceOption::open_model(device);
  run.effect.device = on_device.forward.get();
  options.measure.attention = on_device.attention;
  if (!arguments.with_weights.empty()) run.weights = find_model_dir(arguments.with_weights);
  ProgressBar passes("passes", pass_bytes(model, text, run), ProgressBar::Unit::kBytes, quiet);
  ProgressBar heads("verify", count_heads(model.config(), run.effect.mla_latent), ProgressBar::Unit::kHeads, quiet);
  std::string rate;  // of the passes, which are over when the first head has been measured
  std::once_flag passed;
  options.measure.progress = [&, measured = heads.callback()](std::uint64_t amount) {
    std::call_once(passed, [&] { rate = passes.finish(); });
    measured(amount);
  };
  run.effect.progress = passes.callback();
  run.verify = options;
  VerifyReport report = verify_model(model, text, run, *device.backend);
  if (rate.empty()) rate = passes.finish();
  heads.finish();
  say(quiet, fmt::format("passes: {} through {} layers, reference {:.1f} s, second {:.1f} s, all {}",
                         describe_tokens(text.tokens(), text.available, text.source), model.config().layers.size(),
                         report.effect->reference_seconds, report.effect->numbers.seconds, rate));
  return report;
}

ModelEffect run_reference(const Model& model, const ModelArguments& arguments, std::optional<std::int64_t> tokens, int threads,
                          ForwardDevice* device, ModelSource& source) {
  EffectOptions run;
  run.threads = threads;
  run.device = device;
  run.mla_latent = arguments.prompt.mla_latent();
  run.allow_random = arguments.allow_random;
  run.greedy = arguments.greedy;
  run.on_first_window = [&source](LayerKv& kv) { source.add(kv); };
  return ModelEffect(model, read_windows(model, arguments.prompt.resolve(tokens), arguments.window), run);
}

ExitCode check_model(const ModelArguments& arguments, bool json) {
  try {
    const Model model = Model::open(arguments.model);
    check_cache(model.config(), arguments.prompt.mla_latent());
    const Json description = describe(model);
    if (json) {
      fmt::print("{}\n", description.dump(2, ' ', false, Json::error_handler_t::replace));
      return ExitCode::kDone;
    }
    for (const auto& [key, value] : description.items()) fmt::print("{:<22} {}\n", key, format_value(value));
    return ExitCode::kDone;
  } catch (const Error& error) {
    if (json) fmt::print("{}\n", Json{{"supported", false}, {"reason", error.what()}}.dump(2, ' ', false, Json::error_handler_t::replace));
    throw;
  }
}

}  // namespace tq::cli
