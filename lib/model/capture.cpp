#include "lib/model/capture.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>

#include "lib/error.h"
#include "lib/io/safetensors_header.h"
#include "lib/io/safetensors.h"
#include "lib/model/linear.h"
#include "lib/scheme.h"

namespace tq {
namespace {

struct Shape {
  std::int64_t kv_heads, k_dim, v_dim;
};

Shape shape_of(const ModelConfig& config, bool mla_latent) {
  if (!config.mla || !mla_latent) return {config.kv_heads, config.head_dim, config.v_head_dim};
  return {1, config.mla->kv_rank + config.mla->rope_dim, config.mla->kv_rank};
}

/// A file replaces what it is renamed onto, so the output must be none that this run reads.
void refuse_input_as_output(const Model& model, const Prompt& prompt, const std::string& output) {
  std::vector<std::filesystem::path> inputs = {prompt.file};
  for (const SafetensorsFile& shard : model.reader().checkpoint().shards()) inputs.emplace_back(shard.file().path());
  const std::filesystem::path dir = model.dir();
  const std::filesystem::path place = std::filesystem::absolute(output).lexically_normal();
  for (const std::string_view name : {kModelConfigName, kWeightsName, kIndexName, std::string_view("tq_config.json"),
                                      std::string_view("tokenizer.json"), std::string_view("tokenizer_config.json")}) {
    std::error_code ignored;
    const bool would_be = place.filename() == name && std::filesystem::equivalent(place.parent_path(), dir, ignored);
    inputs.push_back(would_be ? place : dir / name);
  }
  for (const std::filesystem::path& input : inputs) {
    std::error_code ignored;
    if (input != place && !std::filesystem::equivalent(input, output, ignored)) continue;
    throw Error(fmt::format("{}: is {}, which this run reads; choose another output", output,
                            input == prompt.file ? "the text or the token ids" : "a file of the model"));
  }
}

/// Always as long: the metadata is planned before the model has run.
std::string format_perplexity(double value) { return fmt::format("{:.5e}", std::min(value, 9.99999e99)); }

std::vector<int> choose_layers(const Model& model, const CaptureOptions& options) {
  const auto count = static_cast<int>(model.config().layers.size());
  std::vector<int> layers = options.layers;
  for (int i = 0; layers.size() < static_cast<std::size_t>(count) && options.layers.empty(); ++i) layers.push_back(i);
  for (const int layer : layers) {
    if (layer < 0 || layer >= count) {
      throw Error(fmt::format("{}: there is no layer {}: the model has layers 0 to {}", model.dir(), layer, count - 1));
    }
  }
  return layers;
}

MetadataList describe(const Model& model, const Prompt& prompt, const std::vector<int>& layers) {
  const ModelConfig& config = model.config();
  MetadataList metadata = {{"format", "tq-kv-dump"},
                           {"model", model_name(model)},
                           {"family", config.model_type},
                           {"prompt", prompt.source},
                           {"tokens", std::to_string(prompt.ids.size())},
                           {"attention_scale", fmt::format("{}", config.attention_scale)}};
  if (prompt.ids.size() > 1) metadata.emplace_back("perplexity", format_perplexity(1.0));
  if (config.attention_softcap) metadata.emplace_back("attention_softcap", fmt::format("{}", *config.attention_softcap));
  for (const int layer : layers) {
    const auto index = static_cast<std::size_t>(layer);
    if (const auto window = config.layers[index].window) {
      metadata.emplace_back(fmt::format("sliding_window.{}", layer), std::to_string(*window));
    }
    if (const WeightTensor* sinks = model.layout().layers[index].attention.sinks) {
      metadata.emplace_back(fmt::format("attention_sinks.{}", layer),
                            fmt::format("{}", fmt::join(read_vector(model.reader(), *sinks), " ")));
    }
  }
  return metadata;
}

std::vector<TensorSpec> plan_tensors(const Model& model, const std::vector<int>& layers, std::int64_t tokens,
                                     const CaptureOptions& options) {
  const Shape shape = shape_of(model.config(), options.mla_latent);
  std::vector<TensorSpec> specs;
  for (const int layer : layers) {
    const auto add = [&](char part, std::int64_t heads, std::int64_t dim) {
      specs.push_back({fmt::format("{}.{}", part, layer), DType::kF32, {heads, tokens, dim}});
    };
    if (options.queries) add('q', model.config().heads, shape.k_dim);
    add('k', shape.kv_heads, shape.k_dim);
    add('v', shape.kv_heads, shape.v_dim);
  }
  return specs;
}

}  // namespace

void check_cache(const ModelConfig& config, bool mla_latent) {
  if (mla_latent && !config.mla) {
    throw Error(fmt::format("{}: {} has no multi-head latent attention, so no latent cache; leave --mla latent out",
                            config.path, config.model_type));
  }
  const Shape shape = shape_of(config, mla_latent);
  for (const auto& [what, dim] : {std::pair("keys", shape.k_dim), std::pair("values", shape.v_dim)}) {
    if (dim >= kMinDim && dim <= kMaxRowDim) continue;
    throw Error(fmt::format("{}: {}: its {} have {} channels a head, and tq compresses rows of {} to {}", config.path,
                            config.mla ? "kv_lora_rank and head dims" : "head_dim", what, dim, kMinDim, kMaxRowDim));
  }
}

std::string model_name(const Model& model) { return model_name(model.dir()); }

std::string model_name(const std::string& dir) {
  const std::filesystem::path path = std::filesystem::absolute(dir).lexically_normal();
  const std::filesystem::path last = path.has_filename() ? path.filename() : path.parent_path().filename();
  const std::filesystem::path snapshots = path.parent_path();
  const std::string repository = snapshots.parent_path().filename().string();
  constexpr std::string_view kCached = "models--";
  if (snapshots.filename() != "snapshots" || !repository.starts_with(kCached)) return last.string();
  const std::string name = repository.substr(kCached.size());
  const std::size_t at = name.find("--");
  return at == std::string::npos ? name : fmt::format("{}/{}", name.substr(0, at), name.substr(at + 2));
}

CaptureResult capture_kv(const Model& model, const Prompt& prompt, const std::string& path,
                         const CaptureOptions& options) {
  check_cache(model.config(), options.mla_latent);
  refuse_input_as_output(model, prompt, path);
  const std::vector<int> layers = choose_layers(model, options);
  const auto tokens = static_cast<std::int64_t>(prompt.ids.size());
  SafetensorsWriter writer(plan_tensors(model, layers, tokens, options), describe(model, prompt, layers));
  std::map<std::string, std::size_t> index;
  for (std::size_t i = 0; i < writer.tensors().size(); ++i) index[writer.tensors()[i].name] = i;
  writer.create(path, options.overwrite);

  PrefillOptions run;
  run.threads = options.threads;
  run.mla_latent = options.mla_latent;
  run.progress = options.progress;
  run.device = options.device;
  run.hook = [&](LayerKv& kv) {
    for (const auto& [part, values] : {std::pair('q', &kv.q), std::pair('k', &kv.k), std::pair('v', &kv.v)}) {
      const auto found = index.find(fmt::format("{}.{}", part, kv.layer));
      if (found != index.end()) writer.write(found->second, 0, std::as_bytes(std::span(*values)));
    }
  };
  const std::vector<float> hidden = prefill(model, prompt.ids, run);

  CaptureResult result;
  result.bytes = writer.total_bytes();
  result.perplexity = std::numeric_limits<double>::quiet_NaN();
  if (tokens > 1) {
    result.perplexity = perplexity(token_losses(model, hidden, prompt.ids, options.threads, options.device));
    writer.set_metadata("perplexity", format_perplexity(result.perplexity));
  }
  writer.commit();
  return result;
}

}  // namespace tq
