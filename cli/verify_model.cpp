#include "cli/verify_model.h"

#include <fmt/format.h>

#include <mutex>
#include <nlohmann/json.hpp>

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
  CLI::Option* option = app.add_option("--model", model, "a model's directory, or a hub id in the local Hugging Face cache: run "
                                                         "it on a text, and compress what its attention reads")
                            ->type_name("DIR")->group(source_group)->default_str("");
  prompt.declare(app, option);
  const char* group = "With --model";
  app.add_flag("--allow-random", allow_random, "measure also a model whose perplexity on the text is above 200, or on fewer than "
                                               "127 predictions (random weights)")->needs(option)->group(group);
  app.add_flag("--check", check, "say whether tq can run the model, and measure nothing")->needs(option)->group(group);
}

VerifyReport measure_model(const ModelArguments& arguments, std::optional<std::int64_t> tokens, VerifyOptions options,
                           bool quiet) {
  const Model model = Model::open(arguments.model);
  const Prompt prompt = read_prompt(model, arguments.prompt.resolve(tokens));
  ProgressBar prefill("prefill", model.layout().layer_bytes, ProgressBar::Unit::kBytes, quiet);
  ProgressBar heads("verify", count_heads(model.config(), arguments.prompt.mla_latent()), ProgressBar::Unit::kHeads, quiet);
  VerifyModelOptions run;
  run.mla_latent = arguments.prompt.mla_latent();
  run.allow_random = arguments.allow_random;
  std::string rate;  // of the prefill, which is over when the first head has been measured
  std::once_flag prefilled;
  options.measure.progress = [&, measured = heads.callback()](std::uint64_t amount) {
    std::call_once(prefilled, [&] { rate = prefill.finish(); });
    measured(amount);
  };
  run.prefill_progress = prefill.callback();
  run.verify = options;
  VerifyReport report = verify_model(model, prompt, run, *make_cpu_backend());
  heads.finish();
  say(quiet, fmt::format("prefill: {} through {} layers, weights {}", describe_tokens(std::ssize(prompt.ids), prompt.available, prompt.source),
                         model.config().layers.size(), rate));
  return report;
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
