// A model's queries, keys and values as a KV dump (lib/io/kv_dump.h), written layer by layer as the
// prompt passes: memory does not grow with the layers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/model/prompt.h"

namespace tq {

struct CaptureOptions {
  std::vector<int> layers;  ///< ascending; none: all
  bool queries = true;
  bool mla_latent = false;  ///< see PrefillOptions
  bool overwrite = false;
  int threads = 1;
  Progress progress;        ///< gets weights in stored bytes
  ForwardDevice* device = nullptr;  ///< as in PrefillOptions
};

struct CaptureResult {
  std::uint64_t bytes = 0;  ///< of the file
  double perplexity = 0;    ///< NaN for a prompt of one token
};

/// Writes the dump: F32 tensors q.L, k.L, v.L, and metadata `model`, `family`, `tokens`, `prompt`,
/// `perplexity` (of two tokens or more), `attention_scale` and what attention needs besides. Error: a
/// layer that the model does not have; an output that is a file of the model or of the prompt, also
/// under another name; those of check_cache(), prefill() and SafetensorsWriter. After an Error nothing
/// has been written or replaced.
CaptureResult capture_kv(const Model& model, const Prompt& prompt, const std::string& path,
                         const CaptureOptions& options);

/// Error unless what a cache of the model would hold can be compressed: rows of kMinDim to kMaxRowDim
/// channels; with `mla_latent` a model that has multi-head latent attention.
void check_cache(const ModelConfig& config, bool mla_latent);

/// The name that reports give a model: the last part of its path, or the hub id. By directory, or by the opened model.
std::string model_name(const std::string& dir);
std::string model_name(const Model& model);

}  // namespace tq
