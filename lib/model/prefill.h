// The forward pass: a prompt through every layer in float32, weights read layer by layer from the
// checkpoint. This is the fourth pipeline; read prefill.cpp from the bottom.
//
// Memory: the activations, (4 hidden + (heads + 2 kv_heads) head_dim) floats a token and the MLP's
// width for 1024 tokens at a time, and a few MB of weights a thread, whatever the model's size.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lib/backend.h"
#include "lib/model/config.h"
#include "lib/model/forward_device.h"
#include "lib/model/layout.h"
#include "lib/parallel.h"
#include "lib/pack/weight_reader.h"

namespace tq {

/// A model's directory, proved complete: every tensor is there and has its shape. Weights may be BF16, F16, F32 or native
/// TQ3. Move-only.
class Model {
 public:
  /// `model` is a directory, or a hub id in the local cache (find_model_dir). Errors as
  /// find_model_dir(), read_model_config(), WeightReader::open() and plan_layout().
  /// `seed` as WeightReader::open(): for negative controls alone.
  static Model open(const std::string& model, std::optional<std::uint32_t> seed = {});

  const std::string& dir() const { return dir_; }
  const ModelConfig& config() const { return config_; }
  const ModelLayout& layout() const { return layout_; }
  const WeightReader& reader() const { return reader_; }

 private:
  Model(std::string dir, ModelConfig config, std::unique_ptr<Backend> backend, std::optional<std::uint32_t> seed);

  std::string dir_;
  ModelConfig config_;
  std::unique_ptr<Backend> backend_;  // decodes TQ3 weights
  WeightReader reader_;
  ModelLayout layout_;
};

/// What the attention of one layer is about to read: after bias, norm and RoPE, before any repeat
/// over query groups.
struct LayerKv {
  int layer = 0;
  std::int64_t layers = 0;  ///< of the model
  std::int64_t heads = 0, kv_heads = 0, tokens = 0, k_dim = 0, v_dim = 0;
  double scale = 1;
  std::optional<double> softcap;
  std::optional<std::int64_t> window;
  std::vector<float> sinks;      ///< [heads], or none
  std::vector<float> q;          ///< [heads][tokens][k_dim]
  std::vector<float> k;          ///< [kv_heads][tokens][k_dim]
  std::vector<float> v;          ///< [kv_heads][tokens][v_dim]

  /// For a cache that keeps its newest tokens exact, set by a hook: see AttentionTask::recent.
  std::int64_t recent = 0;
  std::vector<float> recent_k, recent_v;
};

/// Called once a layer, in order. It may replace k and v (by what a compressed cache would hand
/// out): the attention reads what it leaves.
using LayerHook = std::function<void(LayerKv&)>;

/// Keys and values of the tokens that were read so far, for decoding step by step.
struct KvState {
  /// Tokens that will be read in all: RoPE scalings that depend on a prompt's length take this one, so that all steps agree.
  std::int64_t capacity = 0;
  std::int64_t tokens = 0;
  struct Layer {
    std::vector<float> k, v;  ///< [kv_heads][tokens][dim], as the hook left them
  };
  std::vector<Layer> layers;
};

struct PrefillOptions {
  int threads = 1;
  /// Multi-head latent attention as it is cached: one key head [latent, rotary part], whose values
  /// are the latent, and queries to match. The logits are the same up to rounding.
  bool mla_latent = false;
  LayerHook hook;
  Progress progress;  ///< told of weights in stored bytes; together about layout().layer_bytes a pass
  /// The ids come after the tokens of the state, which grows by theirs; the hook sees the new tokens only. Error for a hook
  /// that keeps recent tokens.
  KvState* state = nullptr;
  ForwardDevice* device = nullptr;  ///< does products and attention; nullptr: the CPU
};

/// The tokens 1 or more, each below vocab, at most config().context of them; else Error.
void check_tokens(const Model& model, std::span<const std::int32_t> ids);

/// Hidden states after the final norm, [tokens][hidden]. Error as check_tokens(), more tokens than a
/// state's capacity, those of reading, and hidden states that are not finite (by layer and token).
std::vector<float> prefill(const Model& model, std::span<const std::int32_t> ids, const PrefillOptions& options);

/// Logits of `rows` hidden states: [rows][vocab], after soft cap and divisor. `device` as in PrefillOptions.
std::vector<float> compute_logits(const Model& model, std::span<const float> hidden, std::int64_t rows, int threads,
                                  ForwardDevice* device = nullptr);
/// The same into `logits`, which is resized.
void compute_logits(const Model& model, std::span<const float> hidden, std::int64_t rows, int threads, ForwardDevice* device,
                    std::vector<float>& logits);
/// Rows whose logits are computed at once where there are many: 64, and 256 on a device, which may have to read the output head anew.
std::int64_t logit_rows(const ForwardDevice* device);

/// The model's own error: of token i + 1 given tokens 0..i, -ln p in nats, tokens - 1 values. Works
/// through blocks of logit_rows() tokens, so that memory is so many x vocab floats. Error: logits that are not finite
/// (by token).
std::vector<double> token_losses(const Model& model, std::span<const float> hidden,
                                 std::span<const std::int32_t> ids, int threads, ForwardDevice* device = nullptr);

/// exp of the mean loss.
double perplexity(std::span<const double> losses);

}  // namespace tq
