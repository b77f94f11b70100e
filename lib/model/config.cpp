#include "lib/model/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "lib/error.h"
#include "lib/io/config_text.h"
#include "lib/io/checkpoint.h"
#include "lib/model/config_reader.h"
#include "lib/model/config_rope.h"

namespace tq {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kMostLayers = 4096;
constexpr std::int64_t kMostHeads = 65536;
constexpr std::int64_t kMostSize = std::int64_t{1} << 24;  // hidden, vocabulary, and the like
constexpr std::int64_t kMostTokens = std::int64_t{1} << 31;
constexpr std::uint64_t kMostConfigBytes = 16 << 20;

Json parse_object(const std::string& text, const std::string& path) {
  Json json = Json::parse(without_non_finite(text).json, nullptr, false);
  if (!json.is_object()) throw Error(fmt::format("{}: is not one JSON object", path));
  return json;
}

/// The configuration of the text model: the file's own, or its text_config.
Json find_text_config(Json json, const std::string& path) {
  const auto name = [](const Json& from) {
    const auto found = from.find("model_type");
    return found != from.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  if (find_family(name(json)) != nullptr) return json;
  const auto nested = json.find("text_config");
  if (nested == json.end() || !nested->is_object()) {
    if (name(json).empty()) throw Error(fmt::format("{}: model_type: is missing", path));
    return json;
  }
  Json text = *nested;
  if (name(text).empty() && name(json) == "gemma3") text["model_type"] = "gemma3_text";
  // What the whole says of its weights holds for the text model too.
  for (const char* key : {"tie_word_embeddings", "quantization_config", "compression_config", "is_encoder_decoder",
                          "num_kv_shared_layers", "use_bidirectional_attention"}) {
    if (!text.contains(key) && json.contains(key)) text[key] = json[key];
  }
  return text;
}

const Family& require_family(const std::string& model_type, const std::string& path) {
  if (const Family* family = find_family(model_type)) return *family;
  std::vector<std::string_view> names;
  for (const Family& family : families()) names.push_back(family.model_type);
  throw Error(fmt::format("{}: model_type: '{}' is a family that tq cannot run; it has {}", path,
                          model_type, fmt::join(names, ", ")));
}

/// What would change the numbers, and tq does not have.
void refuse_features(const ConfigReader& in, const Family& family, ConfigUse use) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    const Json* quantization = in.find(key);
    if (quantization == nullptr || use != ConfigUse::kRun) continue;
    const Json method = quantization->is_object() ? quantization->value("quant_method", Json()) : Json();
    in.fail(key, fmt::format("the weights are quantized{}, which tq cannot read; use the checkpoint in BF16, F16 or F32",
                             method.is_string() ? " by '" + method.get<std::string>() + "'" : ", it does not say how"));
  }
  if (in.flag("use_bidirectional_attention").value_or(false)) {
    in.fail("use_bidirectional_attention", "tq has causal attention only");
  }
  if (in.flag("is_encoder_decoder").value_or(false)) in.fail("is_encoder_decoder", "tq has decoders only");
  if (use == ConfigUse::kRun && in.number("num_kv_shared_layers").value_or(0) > 0) {
    in.fail("num_kv_shared_layers", "tq does not have layers that share their keys and values");
  }
  if (in.number("moe_layer_freq").value_or(1) != 1) {
    in.fail("moe_layer_freq", "tq has experts in every layer above first_k_dense_replace only");
  }
  if (family.moe == nullptr) return;
  const std::string scoring = in.text("scoring_func").value_or("");
  const bool sigmoid = family.moe->router == Router::kGroupedSigmoid;
  if (!scoring.empty() && scoring != (sigmoid ? "sigmoid" : "softmax")) {
    in.fail("scoring_func", fmt::format("'{}' is not how {} routes", scoring, family.model_type));
  }
}

Activation read_activation(const ConfigReader& in, const Family& family) {
  const std::string_view key = in.has(family.activation_key) ? family.activation_key : "hidden_act";
  const std::string name = in.text(key).value_or("silu");
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") return Activation::kGeluTanh;
  if (name == "relu") return Activation::kRelu;
  in.fail(key, fmt::format("'{}' is an activation that tq does not have; it has silu, gelu, gelu_new, "
                           "gelu_pytorch_tanh, relu", name));
}

void read_heads(const ConfigReader& in, ModelConfig& out) {
  out.heads = in.size("num_attention_heads", kMostHeads);
  out.kv_heads = in.size_or("num_key_value_heads", kMostHeads, out.heads);
  if (out.heads % out.kv_heads != 0) {
    in.fail("num_key_value_heads", fmt::format("{} does not divide the {} attention heads", out.kv_heads, out.heads));
  }
  if (out.family->mla) {
    MlaConfig mla;
    mla.q_rank = in.size_or("q_lora_rank", kMostSize, 0);
    mla.kv_rank = in.size("kv_lora_rank", kMostSize);
    mla.nope_dim = in.size("qk_nope_head_dim", kMostSize);
    mla.rope_dim = in.size("qk_rope_head_dim", kMostSize);
    out.head_dim = mla.nope_dim + mla.rope_dim;
    out.v_head_dim = in.size("v_head_dim", kMostSize);
    out.kv_heads = out.heads;
    out.mla = mla;
    return;
  }
  if (!in.has("head_dim") && out.hidden % out.heads != 0) {
    in.fail("hidden_size", fmt::format("{} is no multiple of the {} attention heads", out.hidden, out.heads));
  }
  out.head_dim = out.v_head_dim = in.size_or("head_dim", kMostSize, out.hidden / out.heads);
}

void read_factors(const ConfigReader& in, ModelConfig& out) {
  const Family& family = *out.family;
  out.attention_scale = 1.0 / std::sqrt(static_cast<double>(out.head_dim));
  if (family.scale_by_query_scalar) {
    out.attention_scale = 1.0 / std::sqrt(in.positive("query_pre_attn_scalar").value_or(256));
  }
  if (family.attention_softcap) out.attention_softcap = in.positive("attn_logit_softcapping");
  if (family.final_softcap) out.final_softcap = in.positive("final_logit_softcapping");
  if (family.embedding_by_sqrt_hidden) out.embedding_scale = std::sqrt(static_cast<double>(out.hidden));
  if (family.multipliers) {
    out.attention_scale = in.positive("attention_multiplier").value_or(1.0);
    out.embedding_scale = in.number("embedding_multiplier").value_or(1.0);
    out.residual_scale = in.number("residual_multiplier").value_or(1.0);
    out.logit_divisor = in.positive("logits_scaling").value_or(1.0);
  }
  if (family.mla) out.attention_scale *= mla_scale_factor(out.ropes.front());
}

bool slides(const ConfigReader& in, const Family& family, std::size_t layer, bool rope) {
  const auto index = static_cast<std::int64_t>(layer);
  const auto most_windows = [&] { return in.count_or("max_window_layers", kMostSize, kMostSize); };
  switch (family.windows) {
    case WindowPattern::kNone: return false;
    case WindowPattern::kEveryLayer: return true;
    case WindowPattern::kFromMaxWindowLayers: return index >= in.count_or("max_window_layers", kMostSize, 28);
    case WindowPattern::kEvenBelowMaxWindow: return index % 2 == 0 && index < most_windows();
    case WindowPattern::kAlternate: return index % 2 == 0;
    case WindowPattern::kAllButEveryNth: {
      const std::string_view key = in.has("sliding_window_pattern") ? "sliding_window_pattern" : "_sliding_window_pattern";
      return (index + 1) % in.size_or(key, kMostLayers, 6) != 0;
    }
    case WindowPattern::kLayersWithoutRope: return !rope;
  }
  return false;
}

/// Kinds of layer_types that keep a state of fixed size in the place of keys and values.
bool is_without_attention(std::string_view kind) {
  return kind == "linear_attention" || kind == "mamba" || kind == "recurrent" || kind == "conv";
}

void read_layer_kinds(const ConfigReader& in, ModelConfig& out, ConfigUse use) {
  const Family& family = *out.family;
  std::vector<std::string> types = family.layer_types ? in.texts("layer_types") : std::vector<std::string>();
  if (!types.empty() && types.size() != out.layers.size()) {
    in.fail("layer_types", fmt::format("has {} entries for {} layers", types.size(), out.layers.size()));
  }
  const std::vector<std::int64_t> rope_list = family.some_without_rope ? in.integers("no_rope_layers") : std::vector<std::int64_t>();
  if (!rope_list.empty() && rope_list.size() < out.layers.size()) {
    in.fail("no_rope_layers", fmt::format("has {} entries for {} layers", rope_list.size(), out.layers.size()));
  }
  const std::int64_t interval = in.size_or("no_rope_layer_interval", kMostLayers, 4);
  const bool windows = family.windows != WindowPattern::kNone && in.flag(family.windows_if) && in.has("sliding_window");
  for (std::size_t i = 0; i < out.layers.size(); ++i) {
    LayerConfig& layer = out.layers[i];
    if (family.some_without_rope) {
      layer.rope = rope_list.empty() ? (static_cast<std::int64_t>(i) + 1) % interval != 0 : rope_list[i] != 0;
    }
    if (!types.empty() && use == ConfigUse::kSizes && is_without_attention(types[i])) {
      layer.attends = layer.own_cache = false;
      continue;
    }
    if (!types.empty() && types[i] != "full_attention" && types[i] != "sliding_attention") {
      in.fail("layer_types", fmt::format("layer {} is of the kind '{}', which tq does not have", i, types[i]));
    }
    const bool sliding = types.empty() ? slides(in, family, i, layer.rope) : types[i] == "sliding_attention";
    if (sliding && !types.empty() && !windows) {
      const bool has_window = in.has("sliding_window");
      in.fail("layer_types", fmt::format("layer {} slides, and {}", i, !has_window ? "there is no sliding_window"
                                         : fmt::format("{} is off: who runs such a model decides", family.windows_if.key)));
    }
    if (sliding && out.ropes.size() > 1) layer.rope_set = 1;
    if (sliding && windows) layer.window = in.size("sliding_window", kMostTokens);
  }
  if (use == ConfigUse::kRun) return;
  const std::int64_t sharing = in.has("num_kv_shared_layers") && in.number("num_kv_shared_layers") != 0.0
                                   ? in.size("num_kv_shared_layers", static_cast<std::int64_t>(out.layers.size()) - 1)
                                   : 0;
  for (auto layer = out.layers.end() - sharing; layer != out.layers.end(); ++layer) layer->own_cache = false;
}

void read_moe(const ConfigReader& in, ModelConfig& out) {
  const MoeFamily& family = *out.family->moe;
  MoeConfig moe;
  moe.experts = in.size_of_any({"num_experts", "num_local_experts", "n_routed_experts"}, kMostSize);
  moe.per_token = in.size("num_experts_per_tok", moe.experts);
  moe.width = in.size(family.width_key, kMostSize);
  moe.renormalize = in.flag(family.renormalize);
  moe.scale = in.number("routed_scaling_factor").value_or(1.0);
  if (family.shared == SharedExpert::kGated) moe.shared_width = in.size("shared_expert_intermediate_size", kMostSize);
  if (family.shared == SharedExpert::kAlways) moe.shared_width = moe.width * in.size("n_shared_experts", 1024);
  const std::string method = in.text("topk_method").value_or("greedy");
  const bool grouped = family.router == Router::kGroupedSigmoid || method == "group_limited_greedy";
  if (family.router == Router::kGroupedSoftmax && !grouped && method != "greedy") {
    in.fail("topk_method", fmt::format("'{}' is none that tq has: greedy, group_limited_greedy", method));
  }
  if (family.router == Router::kGroupedSigmoid && in.has("topk_method") && method != "noaux_tc") {
    in.fail("topk_method", fmt::format("'{}' is none that tq has for this family: noaux_tc", method));
  }
  if (grouped) {
    moe.groups = in.size("n_group", moe.experts);
    moe.groups_used = in.size("topk_group", moe.groups);
    const std::int64_t in_a_group = moe.experts / moe.groups;
    if (moe.experts % moe.groups != 0 || moe.groups_used * in_a_group < moe.per_token ||
        (family.router == Router::kGroupedSigmoid && in_a_group < 2)) {
      in.fail("n_group", fmt::format("{} groups of {} experts, {} of them used, cannot give {} experts a token",
                                     moe.groups, moe.experts, moe.groups_used, moe.per_token));
    }
  }
  if (family.clamped_swiglu) {
    moe.swiglu_alpha = in.number("swiglu_alpha").value_or(1.702);
    moe.swiglu_limit = in.positive("swiglu_limit").value_or(7.0);
  }
  const std::vector<std::int64_t> dense = in.integers("mlp_only_layers");
  for (std::size_t i = 0; i < out.layers.size(); ++i) {
    const auto index = static_cast<std::int64_t>(i);
    switch (family.layers) {
      case SparseLayers::kEvery: out.layers[i].sparse = true; break;
      case SparseLayers::kEveryNth:
        out.layers[i].sparse = std::find(dense.begin(), dense.end(), index) == dense.end() &&
                               (index + 1) % in.size("decoder_sparse_step", kMostSize) == 0;
        break;
      case SparseLayers::kAfterDense:
        out.layers[i].sparse = static_cast<double>(index) >= in.number("first_k_dense_replace").value_or(0);
        break;
    }
  }
  out.moe = moe;
}

}  // namespace

ModelConfig parse_model_config(const std::string& text, const std::string& path, ConfigUse use) {
  Json given = find_text_config(parse_object(text, path), path);
  if (given.contains("rope_parameters") && given["rope_parameters"].is_null()) given.erase("rope_parameters");
  ModelConfig out;
  out.path = path;
  out.model_type = ConfigReader(given, path).text("model_type").value_or("");
  out.family = &require_family(out.model_type, path);
  const Family& family = *out.family;
  Json json = Json::parse(family.defaults);
  json.update(given);
  const ConfigReader in(json, path);
  refuse_features(in, family, use);

  out.hidden = in.size("hidden_size", kMostSize);
  out.layers.resize(static_cast<std::size_t>(in.size("num_hidden_layers", kMostLayers)));
  out.vocab = in.size("vocab_size", kMostSize);
  read_heads(in, out);
  out.ropes = read_ropes(in, out);
  out.rope_pairs = in.flag(Flag{"rope_interleave", true}) || !family.mla ? family.rope : RopePairs::kHalves;
  out.context = longest_prompt(out.ropes.front());
  out.norm_eps = in.number(family.norm_eps_key).value_or(1e-6);
  if (!(out.norm_eps >= 0)) in.fail(family.norm_eps_key, "must not be negative");
  out.tied = in.flag("tie_word_embeddings");
  out.activation = read_activation(in, family);
  out.parallel = in.flag(family.parallel);
  out.qkv_bias = in.flag(family.qkv_bias);
  out.o_bias = in.flag(family.o_bias);
  out.mlp_bias = in.flag(family.mlp_bias);
  out.qk_norm = family.qk_norm != QkNorm::kNone && in.flag(family.qk_norm_if);
  read_factors(in, out);
  read_layer_kinds(in, out, use);
  if (family.moe != nullptr) read_moe(in, out);
  const bool dense = std::any_of(out.layers.begin(), out.layers.end(), [](const LayerConfig& l) { return !l.sparse; });
  if (dense) out.intermediate = in.size("intermediate_size", kMostSize);
  return out;
}

ModelConfig read_model_config(const std::string& dir, ConfigUse use) {
  const std::string path = dir + "/config.json";
  return parse_model_config(read_text_file(path, kMostConfigBytes), path, use);
}

}  // namespace tq
