#include "lib/verify/size_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>

#include "lib/cache/foreign_methods.h"
#include "lib/error.h"
#include "lib/io/tq3_checkpoint.h"
#include "lib/model/layout.h"
#include "lib/pack/plan_weights.h"

namespace tq {
namespace {

constexpr std::uint64_t kHalfBytes = 2;
constexpr std::pair<int, int> kBits[] = {{8, 8}, {8, 4}, {6, 6}, {5, 5},
                                         {4, 4}, {4, 3}, {3, 3}, {2, 2}};
constexpr int kWeightBits[] = {4, 3, 2};
constexpr int kGroupSize = 128;

/// Sums and products that do not wrap.
class Bytes {
 public:
  explicit Bytes(const std::string& path) : path_(path) {}
  std::uint64_t product(std::initializer_list<std::uint64_t> factors) const {
    std::uint64_t out = 1;
    for (const std::uint64_t factor : factors) {
      if (__builtin_mul_overflow(out, factor, &out)) fail();
    }
    return out;
  }
  void add(std::uint64_t& sum, std::uint64_t more) const {
    if (__builtin_add_overflow(sum, more, &sum)) fail();
  }

 private:
  [[noreturn]] void fail() const {
    throw Error(fmt::format(
        "{}: what it describes takes more bytes than 64 bits count; look at its sizes", path_));
  }
  const std::string& path_;
};

CacheShape shape_of(const ModelConfig& config, const LayerConfig& layer) {
  CacheShape shape{1, config.kv_heads, config.head_dim, config.v_head_dim, layer.window};
  if (config.mla) shape = {1, 1, config.mla->kv_rank + config.mla->rope_dim, 0, layer.window};
  return shape;
}

std::int64_t held_tokens(const std::optional<std::int64_t>& window, std::int64_t tokens) {
  return window ? std::min(tokens, *window) : tokens;
}

/// A dim that CacheMethod and Scheme take as int; what is larger than their ranges they refuse by name.
int dim_of(std::int64_t dim) { return static_cast<int>(dim); }

class Planner {
 public:
  Planner(const ModelConfig& config, const SizeOptions& options)
      : config_(config), options_(options), sum_(config.path) {}

  SizePlan make() {
    plan_.contexts = options_.contexts;
    plan_.batch = options_.batch;
    plan_.latent = config_.mla.has_value();
    plan_.layers = static_cast<std::int64_t>(config_.layers.size());
    list_shapes();
    add_baseline();
    for (const auto& [k, v] : kBits) {
      KvSchemeOptions scheme;
      scheme.k_bits = k;
      scheme.v_bits = v;
      add_scheme(fmt::format("k{}v{}", k, v), SizeKind::kTq, scheme);
    }
    if (options_.scheme) add_scheme("given", SizeKind::kGiven, *options_.scheme);
    for (const std::string_view name : foreign_cache_names()) add_foreign(name);
    add_weights();
    note_assumptions();
    return std::move(plan_);
  }

 private:
  void list_shapes() {
    for (const LayerConfig& layer : config_.layers) {
      if (!layer.own_cache) continue;
      const CacheShape shape = shape_of(config_, layer);
      const auto same =
          std::find_if(plan_.shapes.begin(), plan_.shapes.end(), [&](const CacheShape& known) {
            return known.heads == shape.heads && known.k_dim == shape.k_dim &&
                   known.v_dim == shape.v_dim && known.window == shape.window;
          });
      same == plan_.shapes.end() ? plan_.shapes.push_back(shape) : void(++same->layers);
    }
  }

  /// Fills in the bytes of a scheme that takes `bytes_of` (one layer of that shape, one sequence), or why it is refused.
  void add(
      CacheSize size,
      const std::function<std::uint64_t(const CacheShape& shape, std::int64_t tokens)>& bytes_of) {
    try {
      for (const std::int64_t context : options_.contexts) {
        std::uint64_t total = 0;
        for (const CacheShape& shape : plan_.shapes) {
          const std::uint64_t layer = bytes_of(shape, held_tokens(shape.window, context));
          sum_.add(total, sum_.product({layer, static_cast<std::uint64_t>(shape.layers),
                                        static_cast<std::uint64_t>(options_.batch)}));
        }
        size.bytes.push_back(total);
      }
    } catch (const Error& error) {
      refuse(size, error.what());
    } catch (const UsageError& error) {
      refuse(size, error.what());
    }
    plan_.caches.push_back(std::move(size));
  }

  static void refuse(CacheSize& size, const std::string& why) {
    size.bytes.clear();
    size.refused = why;
  }

  void add_baseline() {
    CacheSize size;
    size.name = "bf16";
    size.kind = SizeKind::kBaseline;
    add(size, [&](const CacheShape& shape, std::int64_t tokens) {
      return sum_.product({static_cast<std::uint64_t>(shape.heads),
                           static_cast<std::uint64_t>(tokens),
                           static_cast<std::uint64_t>(shape.k_dim + shape.v_dim), kHalfBytes});
    });
    if (!plan_.caches.back().refused.empty()) throw Error(plan_.caches.back().refused);
  }

  /// One of tq's schemes: boundary layers, single layers and heads may differ, so layer by layer.
  void add_scheme(const std::string& name, SizeKind kind, const KvSchemeOptions& options) {
    CacheSize size;
    size.name = name;
    size.kind = kind;
    size.bytes.assign(options_.contexts.size(), 0);
    try {
      const auto count = static_cast<std::size_t>(
          std::count_if(config_.layers.begin(), config_.layers.end(),
                        [](const LayerConfig& layer) { return layer.own_cache; }));
      LayerPlace place{0, 0, count};
      for (std::size_t i = 0; i < config_.layers.size(); ++i) {
        if (!config_.layers[i].own_cache) continue;
        place.index = static_cast<int>(i);
        add_layer(size, options, place, config_.layers[i]);
        ++place.position;
      }
    } catch (const Error& error) {
      refuse(size, error.what());
    } catch (const UsageError& error) {
      refuse(size, error.what());
    }
    if (kind == SizeKind::kGiven && !size.refused.empty())
      throw Error(fmt::format("{}: {}", config_.path, size.refused));
    plan_.caches.push_back(std::move(size));
  }

  void add_layer(CacheSize& size, const KvSchemeOptions& options, const LayerPlace& place,
                 const LayerConfig& layer) {
    const CacheShape shape = shape_of(config_, layer);
    for (const auto& [part, dim] :
         {std::pair(KvPart::kKeys, shape.k_dim), std::pair(KvPart::kValues, shape.v_dim)}) {
      if (dim == 0) continue;  // the values of a latent cache
      if (dim < kMinDim || dim > kMaxRowDim) {
        throw Error(fmt::format("rows of {} values: tq codes {}..{}", dim, kMinDim, kMaxRowDim));
      }
      const bool by_head = options.differs_by_head(part, place);
      for (std::int64_t head = 0; head < (by_head ? shape.heads : 1); ++head) {
        const CacheScheme scheme = options.scheme_of(part, place, head, dim_of(dim), DType::kBf16);
        if (place.position == 0 && head == 0)
          size.text += (size.text.empty() ? "" : "; ") + format_cache_scheme(scheme);
        for (std::size_t i = 0; i < options_.contexts.size(); ++i) {
          const std::uint64_t bytes = scheme.bytes(by_head ? 1 : shape.heads,
                                                   held_tokens(shape.window, options_.contexts[i]));
          sum_.add(size.bytes[i],
                   sum_.product({bytes, static_cast<std::uint64_t>(options_.batch)}));
        }
      }
    }
  }

  void add_foreign(std::string_view name) {
    CacheSize size;
    size.name = name;
    size.kind = SizeKind::kOther;
    const bool apart = name.starts_with("vllm:") || name.starts_with("kivi");
    add(size, [&](const CacheShape& shape, std::int64_t tokens) {
      if (shape.v_dim == 0 && apart)
        throw Error(fmt::format(
            "{} stores values apart from keys, and a latent cache has one row for both", name));
      const std::int64_t v_dim = shape.v_dim == 0 ? shape.k_dim : shape.v_dim;
      for (const std::int64_t dim : {shape.k_dim, v_dim}) {
        if (dim < kMinDim || dim > kMaxRowDim)
          throw Error(
              fmt::format("{}: rows of {}: must be {}..{}", name, dim, kMinDim, kMaxRowDim));
      }
      const CachePair pair = make_foreign_cache(name, dim_of(shape.k_dim), dim_of(v_dim));
      std::uint64_t bytes = pair.k->bytes(shape.heads, tokens);
      if (shape.v_dim != 0) sum_.add(bytes, pair.v->bytes(shape.heads, tokens));
      return bytes;
    });
  }

  void add_weights() {
    if (std::any_of(config_.layers.begin(), config_.layers.end(),
                    [](const LayerConfig& layer) { return !layer.attends; })) {
      plan_.notes.push_back(
          "weights: not known, since this version of tq does not have the layers without "
          "attention");
      return;
    }
    plan_.weights.push_back({"bf16", 16});
    for (const int bits : kWeightBits)
      plan_.weights.push_back({fmt::format("tq3, {} bits", bits), bits});
    for (const TensorShape& tensor : list_tensors(config_)) {
      const std::optional<std::uint64_t> half = tensor_bytes(DType::kBf16, tensor.shape);
      if (!half) sum_.product({~std::uint64_t{0}, 2});
      const bool quantized = is_linear_weight(tensor.name, tensor.shape);
      const std::uint64_t values = *half / kHalfBytes;
      sum_.add(plan_.parameters, values);
      if (quantized) plan_.quantized_parameters += values;
      for (WeightSize& size : plan_.weights) {
        std::uint64_t bytes = *half;
        if (quantized && size.bits < 16) {
          const auto length = static_cast<std::uint64_t>(tensor.shape.back());
          const auto line =
              static_cast<std::uint64_t>(tq3_scheme(size.bits, kGroupSize).row_bytes());
          bytes = sum_.product({values / length, (length - 1) / kGroupSize + 1, line});
        }
        sum_.add(quantized ? size.quantized : size.kept, bytes);
        sum_.add(size.bytes, bytes);
      }
    }
  }

  void note_assumptions() {
    const auto windows = std::count_if(plan_.shapes.begin(), plan_.shapes.end(),
                                       [](const CacheShape& s) { return s.window.has_value(); });
    if (windows > 0)
      plan_.notes.push_back(
          "a layer with a sliding window holds no more than the window's tokens; a system that "
          "keeps all of them holds more");
    if (plan_.latent) {
      plan_.notes.push_back(
          "latent attention: one row a token and layer, keys and values both read from it; it is "
          "coded with the bits of K");
    }
    std::int64_t held = 0;
    for (const CacheShape& shape : plan_.shapes) held += shape.layers;
    if (held < plan_.layers)
      plan_.notes.push_back(fmt::format("{} of {} layers have no cache of their own",
                                        plan_.layers - held, plan_.layers));
    if (plan_.weights.empty()) return;
    if (!config_.tied)
      plan_.notes.push_back(
          "config.json does not say whether the output head is tied; it is taken to be the "
          "embedding");
    plan_.notes.push_back(
        "weights: of the language model, without towers for other media and predictors of further "
        "tokens");
  }

  const ModelConfig& config_;
  const SizeOptions& options_;
  Bytes sum_;
  SizePlan plan_;
};

double ratio(std::uint64_t a, std::uint64_t b) {
  return static_cast<double>(a) / static_cast<double>(b);
}

using Json = nlohmann::ordered_json;

Json cache_json(const SizePlan& plan, const CacheSize& size) {
  Json json = {{"scheme", size.name}, {"kind", std::string(name_of(size.kind))}};
  json["text"] = size.text.empty() ? Json(nullptr) : Json(size.text);
  json["refused"] = size.refused.empty() ? Json(nullptr) : Json(size.refused);
  json["sizes"] = Json::array();
  for (std::size_t i = 0; i < size.bytes.size(); ++i) {
    const std::uint64_t tokens =
        static_cast<std::uint64_t>(plan.contexts[i]) * static_cast<std::uint64_t>(plan.batch);
    Json entry = {{"context", plan.contexts[i]},
                  {"bytes", size.bytes[i]},
                  {"bytes_per_token", ratio(size.bytes[i], tokens)}};
    entry["compression"] = size.bytes[i] == 0
                               ? Json(nullptr)
                               : Json(ratio(plan.caches.front().bytes[i], size.bytes[i]));
    json["sizes"].push_back(entry);
  }
  return json;
}

}  // namespace

std::string_view name_of(SizeKind kind) {
  constexpr std::string_view kNames[] = {"baseline", "tq", "given", "other"};
  return kNames[static_cast<int>(kind)];
}

SizePlan plan_size(const ModelConfig& config, const SizeOptions& options) {
  return Planner(config, options).make();
}

std::string format_size_json(const SizePlan& plan, const std::string& model,
                             const ModelConfig& config) {
  Json json = {{"model", model},
               {"family", config.model_type},
               {"layers", plan.layers},
               {"latent", plan.latent}};
  json["batch"] = plan.batch;
  json["cache_layers"] = Json::array();
  for (const CacheShape& shape : plan.shapes) {
    Json entry = {{"layers", shape.layers},
                  {"kv_heads", shape.heads},
                  {"k_dim", shape.k_dim},
                  {"v_dim", shape.v_dim}};
    entry["window"] = shape.window ? Json(*shape.window) : Json(nullptr);
    json["cache_layers"].push_back(entry);
  }
  json["kv"] = Json::array();
  for (const CacheSize& size : plan.caches) json["kv"].push_back(cache_json(plan, size));
  json["parameters"] = plan.weights.empty() ? Json(nullptr) : Json(plan.parameters);
  json["quantized_parameters"] =
      plan.weights.empty() ? Json(nullptr) : Json(plan.quantized_parameters);
  json["weights"] = Json::array();
  for (const WeightSize& size : plan.weights) {
    json["weights"].push_back({{"form", size.name},
                               {"bits", size.bits},
                               {"bytes", size.bytes},
                               {"quantized_bytes", size.quantized},
                               {"kept_bytes", size.kept},
                               {"bits_per_weight", 8 * ratio(size.bytes, plan.parameters)},
                               {"compression", ratio(plan.weights.front().bytes, size.bytes)}});
  }
  json["notes"] = plan.notes;
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace tq
