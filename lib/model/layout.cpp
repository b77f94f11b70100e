#include "lib/model/layout.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <deque>
#include <unordered_map>
#include <unordered_set>

#include "lib/error.h"
#include "lib/io/safetensors_header.h"

namespace tq {
namespace {

using Shape = std::vector<std::int64_t>;

/// Latent norms of DeepSeek take no epsilon from config.json.
constexpr double kLatentEps = 1e-6;

/// Where the tensors come from: a checkpoint, or, without one, from being asked for.
class TensorSource {
 public:
  TensorSource(const WeightReader* reader, std::string dir) : reader_(reader), dir_(std::move(dir)) {}

  const std::string& dir() const { return dir_; }
  bool is_checkpoint() const { return reader_ != nullptr; }
  const WeightTensor* find(const std::string& name) const { return reader_ ? reader_->find(name) : nullptr; }
  const WeightTensor* find(const std::string& name, const Shape& shape) { return reader_ ? reader_->find(name) : &declare(name, shape); }
  /// Of the checkpoint.
  const std::vector<WeightTensor>& tensors() const { return reader_->tensors(); }
  const std::deque<WeightTensor>& declared() const { return declared_; }

 private:
  const WeightTensor& declare(const std::string& name, const Shape& shape) {
    const auto [found, is_new] = index_.try_emplace(name, nullptr);
    if (!is_new) return *found->second;
    if (declared_.size() == kMostListedTensors) {
      throw Error(fmt::format("{}: makes more than {} tensors; look at its numbers of layers, experts and heads", dir_,
                              kMostListedTensors));
    }
    WeightTensor tensor;
    tensor.name = name;
    tensor.shape = shape;
    tensor.dtype = DType::kBf16;
    declared_.push_back(std::move(tensor));
    return *(found->second = &declared_.back());
  }

  const WeightReader* reader_;
  std::string dir_;
  std::deque<WeightTensor> declared_;  // in the order in which they were asked for; they do not move
  std::unordered_map<std::string, const WeightTensor*> index_;
};

class Planner {
 public:
  Planner(const ModelConfig& config, TensorSource& source)
      : config_(config), family_(*config.family), source_(source), dir_(source.dir()) {}

  ModelLayout plan() {
    ModelLayout out;
    prefix_ = find_prefix();
    out.embedding = &require(prefix_ + "embed_tokens.weight", {config_.vocab, config_.hidden});
    bytes_ = 0;  // of the layers alone: of the embedding, a prompt's rows are read
    for (std::size_t i = 0; i < config_.layers.size(); ++i) {
      layer_prefix_ = fmt::format("{}layers.{}.", prefix_, i);
      out.layers.push_back(plan_layer(config_.layers[i]));
    }
    out.layer_bytes = bytes_;
    out.final_norm = norm(prefix_ + std::string(family_.final_norm), config_.hidden, family_.norm, config_.norm_eps,
                          family_.norm == NormKind::kLayer);
    plan_head(out);
    if (!source_.is_checkpoint()) return out;
    for (const WeightTensor& tensor : source_.tensors()) {
      if (!is_of_layers(tensor.name) || used_.contains(&tensor)) continue;
      throw Error(fmt::format("{}: tensor {} is no part of a {} as config.json describes it, so the model would not be this one's; "
                              "is it the right config.json?", dir_, quote_name(tensor.name), config_.model_type));
    }
    return out;
  }

 private:
  std::string find_prefix() const {
    if (!source_.is_checkpoint()) return "model.";
    for (const char* prefix : {"model.", "language_model.model.", "model.language_model.", ""}) {
      if (source_.find(std::string(prefix) + "embed_tokens.weight") != nullptr) return prefix;
    }
    throw Error(fmt::format("{}: tensor \"model.embed_tokens.weight\" is missing from the checkpoint", dir_));
  }

  /// Of a layer that the model has, and neither a rotary table nor a causal mask; layers beyond the last are predictors of
  /// further tokens (MTP).
  bool is_of_layers(const std::string& name) const {
    const std::string layers = prefix_ + "layers.";
    if (!name.starts_with(layers) || name.find("rotary_emb.") != std::string::npos || name.ends_with(".masked_bias") ||
        name.ends_with("self_attn.bias")) {
      return false;
    }
    const std::size_t dot = name.find('.', layers.size());
    const std::string index = name.substr(layers.size(), dot == std::string::npos ? dot : dot - layers.size());
    return index.size() <= 5 && index.find_first_not_of("0123456789") == std::string::npos && !index.empty() &&
           std::stoul(index) < config_.layers.size();
  }

  const WeightTensor& require(const std::string& name, const Shape& shape) {
    const WeightTensor* tensor = source_.find(name, shape);
    if (tensor == nullptr) {
      throw Error(fmt::format("{}: tensor {} is missing from the checkpoint; {} needs it", dir_, quote_name(name),
                              config_.model_type));
    }
    if (tensor->shape != shape) {
      throw Error(fmt::format("{}: tensor {}: its shape is [{}], and config.json makes it [{}]", dir_, quote_name(name),
                              fmt::join(tensor->shape, ", "), fmt::join(shape, ", ")));
    }
    if (source_.is_checkpoint() && !tensor->is_readable()) {
      throw Error(fmt::format("{}: tensor {} is stored as {}, which tq cannot run; use the checkpoint in BF16, F16 or F32",
                              dir_, quote_name(name), name_of(tensor->dtype)));
    }
    if (used_.insert(tensor).second) bytes_ += tensor->stored_bytes;
    return *tensor;
  }

  Norm norm(const std::string& stem, std::int64_t size, NormKind kind, double eps, bool bias) {
    Norm out;
    out.kind = kind;
    out.eps = eps;
    out.weight = &require(stem + ".weight", {size});
    if (bias) out.bias = &require(stem + ".bias", {size});
    return out;
  }

  Norm layer_norm(std::string_view name) {
    if (name.empty()) return {};
    return norm(layer_prefix_ + std::string(name), config_.hidden, family_.norm, config_.norm_eps,
                family_.norm == NormKind::kLayer);
  }

  Matrix matrix(const std::string& stem, std::int64_t out, std::int64_t in, bool bias = false) {
    Matrix m;
    m.tensor = &require(layer_prefix_ + stem + ".weight", {out, in});
    m.out = out;
    m.in = in;
    if (bias) m.bias = &require(layer_prefix_ + stem + ".bias", {out});
    return m;
  }

  /// Rows first .. first + out - 1 of a matrix that holds several.
  static Matrix part(const Matrix& whole, std::int64_t first, std::int64_t out) {
    Matrix m = whole;
    m.first_row += first;
    m.bias_first += first;
    m.out = out;
    return m;
  }

  void plan_projections(AttentionLayout& a) {
    const std::int64_t hidden = config_.hidden;
    const std::int64_t q = config_.heads * config_.head_dim;
    const std::int64_t k = config_.kv_heads * config_.head_dim;
    const std::int64_t v = config_.kv_heads * config_.v_head_dim;
    if (family_.fused_qkv.empty()) {
      a.q = matrix("self_attn.q_proj", q, hidden, config_.qkv_bias);
      a.k = matrix("self_attn.k_proj", k, hidden, config_.qkv_bias);
      a.v = matrix("self_attn.v_proj", v, hidden, config_.qkv_bias);
      return;
    }
    const Matrix whole = matrix(std::string(family_.fused_qkv), q + k + v, hidden, config_.qkv_bias);
    a.q = part(whole, 0, q);
    a.k = part(whole, q, k);
    a.v = part(whole, q + k, v);
  }

  void plan_latent(AttentionLayout& a) {
    const MlaConfig& mla = *config_.mla;
    const std::int64_t q = config_.heads * config_.head_dim;
    if (mla.q_rank == 0) {
      a.q = matrix("self_attn.q_proj", q, config_.hidden);
    } else {
      a.q_a = matrix("self_attn.q_a_proj", mla.q_rank, config_.hidden, config_.qkv_bias);
      a.q_a_norm = norm(layer_prefix_ + "self_attn.q_a_layernorm", mla.q_rank, NormKind::kRms, kLatentEps, false);
      a.q = matrix("self_attn.q_b_proj", q, mla.q_rank);
    }
    a.kv_a = matrix("self_attn.kv_a_proj_with_mqa", mla.kv_rank + mla.rope_dim, config_.hidden, config_.qkv_bias);
    a.kv_a_norm = norm(layer_prefix_ + "self_attn.kv_a_layernorm", mla.kv_rank, NormKind::kRms, kLatentEps, false);
    a.kv_b = matrix("self_attn.kv_b_proj", config_.heads * (mla.nope_dim + config_.v_head_dim), mla.kv_rank);
  }

  std::vector<Norm> plan_qk_norm(std::string_view name, std::int64_t heads) {
    const std::string stem = layer_prefix_ + std::string(name);
    const auto one = [&](const std::string& at, std::int64_t size) {
      return norm(at, size, family_.qk_norm_kind, config_.norm_eps, family_.qk_norm_bias);
    };
    std::vector<Norm> norms;
    switch (family_.qk_norm) {
      case QkNorm::kNone: break;
      case QkNorm::kEveryHead: norms.push_back(one(stem, config_.head_dim)); break;
      case QkNorm::kWhole: norms.push_back(one(stem, heads * config_.head_dim)); break;
      case QkNorm::kEachHead:
        for (std::int64_t h = 0; h < heads; ++h) norms.push_back(one(fmt::format("{}.norms.{}", stem, h), config_.head_dim));
        break;
    }
    return norms;
  }

  AttentionLayout plan_attention() {
    AttentionLayout a;
    config_.mla ? plan_latent(a) : plan_projections(a);
    if (config_.qk_norm) {
      a.q_norm = plan_qk_norm(family_.q_norm_name, config_.heads);
      a.k_norm = plan_qk_norm(family_.k_norm_name, config_.kv_heads);
    }
    if (family_.sinks) a.sinks = &require(layer_prefix_ + "self_attn.sinks", {config_.heads});
    a.o = matrix(std::string(family_.o_name), config_.hidden, config_.heads * config_.v_head_dim, config_.o_bias);
    return a;
  }

  MlpLayout plan_mlp(const std::string& stem, std::int64_t width, MlpKind kind, bool bias) {
    MlpLayout mlp;
    switch (kind) {
      case MlpKind::kGated:
        mlp.gate = matrix(stem + "gate_proj", width, config_.hidden, bias);
        mlp.up = matrix(stem + "up_proj", width, config_.hidden, bias);
        mlp.down = matrix(stem + "down_proj", config_.hidden, width, bias);
        break;
      case MlpKind::kFusedGated: {
        const Matrix both = matrix(stem + "gate_up_proj", 2 * width, config_.hidden, bias);
        mlp.gate = part(both, 0, width);
        mlp.up = part(both, width, width);
        mlp.down = matrix(stem + "down_proj", config_.hidden, width, bias);
        break;
      }
      case MlpKind::kPlain:
        mlp.up = matrix(stem + "fc1", width, config_.hidden, bias);
        mlp.down = matrix(stem + "fc2", config_.hidden, width, bias);
        break;
    }
    return mlp;
  }

  MlpLayout plan_numbered_expert(const std::string& stem) {
    const std::int64_t width = config_.moe->width;
    return {matrix(stem + "w1", width, config_.hidden), matrix(stem + "w3", width, config_.hidden),
            matrix(stem + "w2", config_.hidden, width), {}};
  }

  /// Experts in one tensor of three dimensions: [experts, gate then up, in] and [experts, out, in].
  std::vector<MlpLayout> plan_stacked_experts(const std::string& stem) {
    const MoeConfig& moe = *config_.moe;
    Matrix both, down;
    both.tensor = &require(layer_prefix_ + stem + "gate_up_proj", {moe.experts, 2 * moe.width, config_.hidden});
    both.in = config_.hidden;
    down.tensor = &require(layer_prefix_ + stem + "down_proj", {moe.experts, config_.hidden, moe.width});
    down.in = moe.width;
    std::vector<MlpLayout> experts;
    for (std::int64_t e = 0; e < moe.experts; ++e) {
      experts.push_back({part(both, 2 * e * moe.width, moe.width), part(both, (2 * e + 1) * moe.width, moe.width),
                         part(down, e * config_.hidden, config_.hidden), {}});
    }
    return experts;
  }

  std::vector<MlpLayout> plan_transposed_experts(const std::string& stem) {
    const MoeConfig& moe = *config_.moe;
    const auto expert = [&](const char* name, std::int64_t e, std::int64_t in, std::int64_t out) {
      const std::string full = layer_prefix_ + stem + name;
      Matrix m;
      m.tensor = &require(full, {moe.experts, in, out});
      m.first_row = e * in;
      m.in = in;
      m.out = out;
      m.transposed = true;
      m.bias = &require(full + "_bias", {moe.experts, out});
      m.bias_row = e;
      return m;
    };
    std::vector<MlpLayout> experts;
    for (std::int64_t e = 0; e < moe.experts; ++e) {
      MlpLayout mlp;
      mlp.fused = expert("gate_up_proj", e, config_.hidden, 2 * moe.width);
      mlp.down = expert("down_proj", e, moe.width, config_.hidden);
      experts.push_back(mlp);
    }
    return experts;
  }

  MoeLayout plan_moe() {
    const MoeFamily& family = *family_.moe;
    const MoeConfig& moe = *config_.moe;
    const std::string block = std::string(family.block) + ".";
    const std::string router = block + std::string(family.router_name);
    const std::string experts = block + "experts.";
    MoeLayout out;
    out.router = matrix(router, moe.experts, config_.hidden, family.router_bias);
    if (family.router == Router::kGroupedSigmoid) {
      out.correction = &require(layer_prefix_ + router + ".e_score_correction_bias", {moe.experts});
    }
    if (family.experts == ExpertLayout::kTransposedFused) {
      out.experts = plan_transposed_experts(experts);
    } else if (source_.find(layer_prefix_ + experts + "gate_up_proj") != nullptr) {
      out.experts = plan_stacked_experts(experts);
    } else {
      for (std::int64_t e = 0; e < moe.experts; ++e) {
        const std::string stem = fmt::format("{}{}.", experts, e);
        out.experts.push_back(family.experts == ExpertLayout::kEachNumbered ? plan_numbered_expert(stem)
                                                                            : plan_mlp(stem, moe.width, MlpKind::kGated, false));
      }
    }
    if (family.shared != SharedExpert::kNone) {
      const bool gated = family.shared == SharedExpert::kGated;
      out.shared = plan_mlp(block + (gated ? "shared_expert." : "shared_experts."), moe.shared_width, MlpKind::kGated,
                            config_.mlp_bias);
      if (gated) out.shared_gate = matrix(block + "shared_expert_gate", 1, config_.hidden);
    }
    return out;
  }

  LayerLayout plan_layer(const LayerConfig& layer) {
    LayerLayout out;
    out.before_attention = layer_norm(family_.before_attention);
    out.after_attention = layer_norm(family_.after_attention);
    if (!config_.parallel) out.before_mlp = layer_norm(family_.before_mlp);
    out.after_mlp = layer_norm(family_.after_mlp);
    out.attention = plan_attention();
    if (layer.sparse) {
      out.moe = plan_moe();
    } else {
      out.mlp = plan_mlp("mlp.", config_.intermediate, family_.mlp, config_.mlp_bias);
    }
    return out;
  }

  void plan_head(ModelLayout& out) {
    std::string name = "lm_head";
    if (source_.find("lm_head.weight") == nullptr && source_.find("language_model.lm_head.weight") != nullptr) {
      name = "language_model.lm_head";
    }
    const bool there = source_.find(name + ".weight") != nullptr;
    out.tied = !there && config_.tied.value_or(true);
    out.head.tensor = out.tied ? out.embedding : &require(name + ".weight", {config_.vocab, config_.hidden});
    out.head.out = config_.vocab;
    out.head.in = config_.hidden;
    if (family_.head_bias) out.head.bias = &require(name + ".bias", {config_.vocab});
  }

  const ModelConfig& config_;
  const Family& family_;
  TensorSource& source_;
  const std::string& dir_;
  std::string prefix_, layer_prefix_;
  std::unordered_set<const WeightTensor*> used_;
  std::uint64_t bytes_ = 0;
};

}  // namespace

ModelLayout plan_layout(const ModelConfig& config, const WeightReader& reader, const std::string& dir) {
  TensorSource source(&reader, dir);
  return Planner(config, source).plan();
}

std::vector<TensorShape> list_tensors(const ModelConfig& config) {
  if (config.moe && static_cast<std::size_t>(config.moe->experts) > kMostListedTensors / config.layers.size()) {
    throw Error(fmt::format("{}: has {} layers of {} experts, more than tq lists; look at both numbers", config.path,
                            config.layers.size(), config.moe->experts));
  }
  TensorSource source(nullptr, config.path);
  Planner(config, source).plan();
  std::vector<TensorShape> out;
  for (const WeightTensor& tensor : source.declared()) out.push_back({tensor.name, tensor.shape});
  return out;
}

}  // namespace tq
