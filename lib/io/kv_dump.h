// The KV dump: a safetensors file with the keys and values, and if wanted the queries, that a
// model's attention layers saw. It is what tq compresses and measures.
//
//   k.L  v.L  q.L    or    layers.L.key  layers.L.value  layers.L.query        L = 0, 1, 2, ... any
//   subset of layers
//
// Each tensor is F32, F16 or BF16 and is shaped [heads, tokens, head_dim], or [1, heads, tokens,
// head_dim]. Layers may differ in all three. Within a layer K and V have the same heads (kv_heads)
// and tokens, but each its own head_dim; Q is optional, has a multiple of kv_heads as its heads
// (query head h attends to kv head h / (q heads / kv_heads)), the head_dim of K, and the queries of
// the last tokens, as many as it has. Metadata that tq reads, all optional: `attention_scale` (the
// factor on q.k), `attention_softcap` (a logit x becomes cap * tanh(x / cap)), `sliding_window.L`
// (a query of layer L sees that many tokens, itself included), `attention_sinks.L` (numbers separated
// by spaces, one a query head of layer L: a logit more in each softmax, which has no value).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lib/io/safetensors.h"

namespace tq {

/// One tensor of a dump: `heads` x `tokens` rows of `head_dim` elements, row-major, from
/// info.offset on.
struct KvTensor {
  TensorInfo info;
  std::int64_t heads = 0;   ///< 1 or more
  std::int64_t tokens = 0;  ///< 1 or more
  int head_dim = 0;         ///< 8 to 1024
  bool batched = false;     ///< the shape has a leading 1
};

/// One layer of a dump.
struct KvLayer {
  int index = 0;  ///< L of the tensors' names
  KvTensor k;
  KvTensor v;
  std::optional<KvTensor> q;
};

/// What a dump says, once its names, shapes and metadata have been found sound.
struct KvLayout {
  std::vector<KvLayer> layers;  ///< ascending by index; 1 or more
  std::optional<double> attention_scale;
  std::optional<double> attention_softcap;
  std::map<int, std::int64_t> sliding_windows;  ///< by layer index
  std::map<int, std::vector<float>> sinks;      ///< by layer index
};

/// Sorts tensors into layers. `where` (the path) begins each message. Error, with tensor and byte
/// offset, unless all tensors fit the description above: a name that is none of the six is refused,
/// so that a typo does not drop a layer in silence; so is a tensor under both of its names, K
/// without V or V without K, and a dump without layers. attention_scale and attention_softcap must
/// be positive finite decimal numbers, sliding_window.L a positive integer for a layer that is
/// there, attention_sinks.L finite numbers, as many as that layer has query heads; other metadata are not looked at, but a key that only begins like one of these is
/// refused.
KvLayout classify_kv_tensors(const std::vector<TensorInfo>& tensors,
                             const std::map<std::string, std::string>& metadata,
                             const std::string& where);

/// A KV dump that was found sound and is open for reading. Move-only; reading is thread-safe.
class KvDump {
 public:
  /// Errors as SafetensorsFile::open() and classify_kv_tensors(). Reads the header only.
  static KvDump open(const std::string& path);

  /// The layers, ascending by index.
  const std::vector<KvLayer>& layers() const { return layout_.layers; }

  /// All metadata, those that tq does not read included.
  const std::map<std::string, std::string>& metadata() const { return file_.metadata(); }

  /// The factor on q.k before the softmax: metadata `attention_scale`, else 1 / sqrt(head_dim of
  /// K).
  double attention_scale(const KvLayer& layer) const;

  /// Metadata `attention_softcap`; nothing if logits are not capped.
  std::optional<double> attention_softcap() const { return layout_.attention_softcap; }

  /// Metadata `sliding_window.L` in tokens; nothing if a query sees all tokens up to its own.
  std::optional<std::int64_t> sliding_window(const KvLayer& layer) const;

  /// Metadata `attention_sinks.L`, one a query head; empty if there are none.
  std::vector<float> sinks(const KvLayer& layer) const;

  /// The container, for reading rows and naming the file.
  const SafetensorsFile& file() const { return file_; }

 private:
  KvDump(SafetensorsFile file, KvLayout layout)
      : file_(std::move(file)), layout_(std::move(layout)) {}

  SafetensorsFile file_;
  KvLayout layout_;
};

}  // namespace tq
