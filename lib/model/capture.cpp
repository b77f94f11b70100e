#include "lib/model/capture.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>

#include "lib/error.h"
#include "lib/io/safetensors.h"
#include "lib/model/linear.h"

namespace tq {
namespace {

constexpr std::int64_t kLeastDim = 8;  // of a dump
constexpr std::int64_t kMostDim = 1024;

struct Shape {
  std::int64_t kv_heads, k_dim, v_dim;
};

Shape shape_of(const ModelConfig& config, bool mla_latent) {
  if (!config.mla || !mla_latent) return {config.kv_heads, config.head_dim, config.v_head_dim};
  return {1, config.mla->kv_rank + config.mla->rope_dim, config.mla->kv_rank};
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
                           {"perplexity", format_perplexity(1.0)},
                           {"attention_scale", fmt::format("{}", config.attention_scale)}};
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
  for (const std::int64_t dim : {shape.k_dim, shape.v_dim}) {
    if (dim >= kLeastDim && dim <= kMostDim) continue;
    throw Error(fmt::format("{}: its heads have {} channels; a dump holds {} to {}", model.dir(), dim, kLeastDim, kMostDim));
  }
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
    result.perplexity = perplexity(token_losses(model, hidden, prompt.ids, options.threads));
    writer.set_metadata("perplexity", format_perplexity(result.perplexity));
  }
  writer.commit();
  return result;
}

}  // namespace tq
