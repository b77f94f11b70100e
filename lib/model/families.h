// The differences between families of decoder-only transformers, as data: what a layer consists of,
// what its tensors are called, and which keys of config.json change it. Everything that a row does
// not say is as in Llama. Adding a family is adding a row to families.cpp, and its fixture to
// tests/prefill.
//
// Tensor names are relative to "model.layers.L."; an empty name means that there is no such tensor.
#pragma once

#include <span>
#include <string_view>

namespace tq {

/// x / rms(x) * w; the same with w + 1 (Gemma stores w - 1); (x - mean) / std * w + b.
enum class NormKind { kRms, kRmsPlusOne, kLayer };

/// Which channels turn together, channel i of the first half with channel i of the second; 2i with
/// 2i + 1; or 2i with 2i + 1, written apart into halves (DeepSeek-V3).
enum class RopePairs { kHalves, kNeighbours, kNeighboursToHalves };

/// Norms of q and k before RoPE: none; one weight for every head; one weight over all heads at
/// once; a weight for each head ("q_layernorm.norms.H.weight").
enum class QkNorm { kNone, kEveryHead, kWhole, kEachHead };

/// Layers with a sliding window where config.json has no layer_types.
enum class WindowPattern {
  kNone,
  kEveryLayer,
  kFromMaxWindowLayers,   ///< layers max_window_layers and above
  kEvenBelowMaxWindow,    ///< layers 0, 2, 4, ... below max_window_layers
  kAlternate,             ///< layers 0, 2, 4, ...
  kAllButEveryNth,        ///< all but layers N-1, 2N-1, ...; N is sliding_window_pattern, 6 unless told
  kLayersWithoutRope,
};

enum class MlpKind {
  kGated,       ///< down(act(gate(x)) * up(x))
  kFusedGated,  ///< the same; gate and up are one tensor, gate first
  kPlain,       ///< down(act(up(x)))
};

/// How a token's experts and their weights come from the router's logits.
enum class Router {
  kSoftmaxThenTopK,  ///< the k largest of softmax(logits), renormalized if the config says so
  kTopKThenSoftmax,  ///< softmax over the k largest logits
  kGroupedSoftmax,   ///< as the first, among the groups with the largest member (topk_method)
  kGroupedSigmoid,   ///< sigmoid; chosen by score + bias, among the groups whose two best sum highest
};

/// Layers whose MLP is a mixture of experts.
enum class SparseLayers {
  kEvery,
  kEveryNth,    ///< layers N-1, 2N-1, ... with N = decoder_sparse_step, but for mlp_only_layers
  kAfterDense,  ///< layers first_k_dense_replace and above
};

/// How the experts' matrices are stored.
enum class ExpertLayout {
  kEach,              ///< experts.E.gate_proj, up_proj, down_proj
  kEachNumbered,      ///< experts.E.w1 (gate), w3 (up), w2 (down)
  kTransposedFused,   ///< experts.gate_up_proj [E, in, 2 out], gate and up in turns, with biases
};

enum class SharedExpert { kNone, kAlways, kGated };

/// A boolean of config.json and its value where the key is absent (null is false); without a key, a constant.
struct Flag {
  std::string_view key = {};
  bool value = false;
};

struct MoeFamily {
  Router router = Router::kSoftmaxThenTopK;
  SparseLayers layers = SparseLayers::kEvery;
  ExpertLayout experts = ExpertLayout::kEach;
  SharedExpert shared = SharedExpert::kNone;
  Flag renormalize = {};
  std::string_view block = "mlp";        ///< begins the names of the router and the experts
  std::string_view router_name = "gate";
  std::string_view width_key = "moe_intermediate_size";
  bool router_bias = false;
  bool clamped_swiglu = false;  ///< gpt-oss: (up + 1) * gate * sigmoid(alpha gate), both clamped
};

struct Family {
  std::string_view model_type;  ///< as config.json (or its text_config) names it
  std::string_view defaults = "{}";  ///< JSON: what may be left out of config.json, and is then this

  NormKind norm = NormKind::kRms;
  std::string_view norm_eps_key = "rms_norm_eps";
  std::string_view before_attention = "input_layernorm";
  std::string_view after_attention = {};
  std::string_view before_mlp = "post_attention_layernorm";
  std::string_view after_mlp = {};
  std::string_view final_norm = "norm";
  Flag parallel = {};  ///< attention and MLP read the same normed input; then there is no before_mlp

  std::string_view fused_qkv = {};  ///< q, k, v in one tensor, in that order
  std::string_view o_name = "self_attn.o_proj";
  Flag qkv_bias = {};
  Flag o_bias = {};
  QkNorm qk_norm = QkNorm::kNone;
  Flag qk_norm_if = {{}, true};
  std::string_view q_norm_name = "self_attn.q_norm";
  std::string_view k_norm_name = "self_attn.k_norm";
  NormKind qk_norm_kind = NormKind::kRms;
  bool qk_norm_bias = false;
  bool sinks = false;  ///< self_attn.sinks [heads]: a logit more in each softmax, without a value
  bool mla = false;    ///< multi-head latent attention (DeepSeek)

  RopePairs rope = RopePairs::kHalves;
  double rope_theta = 10000.0;   ///< where config.json has none
  bool partial_rotary = false;   ///< partial_rotary_factor counts
  double rotary_share = 1.0;     ///< partial_rotary_factor where config.json does not have the key
  bool local_rope = false;       ///< sliding layers turn by rope_local_base_freq (Gemma 3)
  bool some_without_rope = false;  ///< no_rope_layers, no_rope_layer_interval (SmolLM3)

  WindowPattern windows = WindowPattern::kNone;
  bool layer_types = false;  ///< layer_types of config.json overrides the pattern
  Flag windows_if = {{}, true};

  bool scale_by_query_scalar = false;  ///< attention scale = query_pre_attn_scalar ^ -1/2
  bool attention_softcap = false;      ///< attn_logit_softcapping
  bool final_softcap = false;          ///< final_logit_softcapping
  bool embedding_by_sqrt_hidden = false;
  bool multipliers = false;  ///< Granite: attention, residual and embedding multipliers, logits_scaling

  MlpKind mlp = MlpKind::kGated;
  Flag mlp_bias = {};  ///< of dense layers and of shared experts
  std::string_view activation_key = "hidden_act";
  bool head_bias = false;
  const MoeFamily* moe = nullptr;
};

/// All families, in the order of docs/models.md.
std::span<const Family> families();

/// The family of that model_type, or nullptr.
const Family* find_family(std::string_view model_type);

}  // namespace tq
