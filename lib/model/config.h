// config.json of a Hugging Face model directory as one plain struct, with everything decided: what
// the family (families.h) and the file together say of each layer. Nothing after this looks at
// JSON. A model that tq cannot run is refused here, naming what is missing, before a weight is
// read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/model/activation.h"
#include "lib/model/families.h"

namespace tq {

enum class RopeKind { kDefault, kLinear, kDynamic, kYarn, kLongRope, kLlama3 };

/// Rotary embedding. Formulas: rope.h.
struct RopeConfig {
  RopeKind kind = RopeKind::kDefault;
  int dims = 0;  ///< channels that turn, even
  double theta = 10000.0;
  double factor = 1.0;
  std::int64_t original_context = 0;       ///< yarn, longrope, llama3: tokens before scaling
  std::int64_t context = 0;                ///< max_position_embeddings
  std::optional<double> attention_factor;  ///< yarn, longrope: factor on cos and sin
  std::optional<double> mscale, mscale_all_dim;              ///< yarn
  double beta_fast = 32.0, beta_slow = 1.0;                  ///< yarn
  bool truncate = true;                                      ///< yarn
  double low_freq_factor = 1.0, high_freq_factor = 4.0;      ///< llama3
  std::vector<double> short_factor, long_factor;             ///< longrope, dims / 2 each
};

struct LayerConfig {
  std::optional<std::int64_t> window;  ///< tokens that a query sees, itself included
  bool rope = true;
  int rope_set = 0;     ///< which of ModelConfig::ropes
  bool sparse = false;  ///< a mixture of experts in the place of the MLP
  bool attends = true;  ///< false: the layer mixes tokens without keys and values (ConfigUse::kSizes)
  bool own_cache = true;  ///< false: without a cache, or it reads that of an earlier layer (ConfigUse::kSizes)
};

struct MoeConfig {
  std::int64_t experts = 0;
  std::int64_t per_token = 0;
  std::int64_t width = 0;         ///< intermediate size of an expert
  std::int64_t shared_width = 0;  ///< of the shared expert; 0 without one
  std::int64_t groups = 1;        ///< experts are chosen within groups_used of these groups
  std::int64_t groups_used = 1;
  bool renormalize = false;
  double scale = 1.0;  ///< routed_scaling_factor
  double swiglu_alpha = 0, swiglu_limit = 0;
};

/// Multi-head latent attention: k and v of a token come from a latent vector of kv_rank values and
/// a rotary part of rope_dim values that all heads share; these two are what a cache holds.
struct MlaConfig {
  std::int64_t q_rank = 0;  ///< 0: q comes straight from the hidden state
  std::int64_t kv_rank = 0;
  std::int64_t nope_dim = 0;
  std::int64_t rope_dim = 0;
};

struct ModelConfig {
  std::string path;        ///< of config.json; begins error messages
  std::string model_type;  ///< as the file says, of the text model where it is nested
  const Family* family = nullptr;

  std::int64_t hidden = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;    ///< divides heads
  std::int64_t head_dim = 0;    ///< of q and k
  std::int64_t v_head_dim = 0;
  std::int64_t intermediate = 0;
  std::int64_t vocab = 0;
  std::int64_t context = 0;     ///< the longest prompt, in tokens
  double norm_eps = 1e-6;
  std::optional<bool> tied;     ///< embeddings as output head; nothing: the file does not say
  Activation activation = Activation::kSilu;
  bool parallel = false, qkv_bias = false, o_bias = false, qk_norm = false, mlp_bias = false;

  double attention_scale = 0;
  std::optional<double> attention_softcap, final_softcap;
  double embedding_scale = 1, residual_scale = 1, logit_divisor = 1;

  RopePairs rope_pairs = RopePairs::kHalves;
  std::vector<RopeConfig> ropes;     ///< 1, or 2 where sliding layers turn by another base
  std::vector<LayerConfig> layers;   ///< 1 or more
  std::optional<MoeConfig> moe;
  std::optional<MlaConfig> mla;
};

/// What the configuration is for: to run the model, or to count its bytes. For sizes alone quantized weights, layers that
/// share their keys (num_kv_shared_layers: the last ones) and layers without attention (layer_types) are read, too.
enum class ConfigUse { kRun, kSizes };

/// Reads DIR/config.json. Error, naming the file and the key: the file is missing, too long or not
/// one JSON object; a key that is needed is absent, of the wrong type or out of range; sizes that
/// do not divide; a family that tq does not have, or a feature of it that tq does not have
/// (quantized weights, another RoPE scaling or activation, bidirectional attention, layers that
/// share their keys).
ModelConfig read_model_config(const std::string& dir, ConfigUse use = ConfigUse::kRun);

/// The same from JSON text; `path` begins the messages.
ModelConfig parse_model_config(const std::string& text, const std::string& path, ConfigUse use = ConfigUse::kRun);

}  // namespace tq
