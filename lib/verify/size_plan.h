// How many bytes a model's cache and weights take, by scheme and context length: from config.json alone, before anything is
// downloaded or run. Padding is counted: rows of codes end on a byte, blocks and slots are whole.
//
// What a cache is taken to hold:
//  * one cache a sequence: a batch of N takes N times the bytes of one.
//  * A layer with a sliding window of W tokens holds its last min(tokens, W). A system that keeps them all holds more.
//  * Multi-head latent attention: a token and layer has one row of kv_rank + rope_dim values, and keys and values are both
//    read from it. It is coded with the bits of K. Schemes that store values apart from keys are refused.
//  * A layer without attention, or that reads another layer's cache, holds nothing. (What a linear-attention layer keeps
//    does not grow with the context and is not counted.)
//  * Rows in 16 bits, beside tq's codes too. Neither pages of an allocator nor tables that are the same for every model; what
//    a .tq3 file adds to its codes and norms is its header and its tables.
//
// The other systems' bytes are those of lib/cache/foreign_methods.h, of all layers alike: vLLM itself leaves some layers of
// a model in 16 bits.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/cache/kv_options.h"
#include "lib/model/config.h"

namespace tq {

struct SizeOptions {
  std::vector<std::int64_t> contexts = {4096, 32768,
                                        131072};  ///< tokens of a sequence, 1..2^31 each
  std::int64_t batch = 1;                         ///< sequences, 1..2^20
  std::optional<KvSchemeOptions> scheme = {};     ///< a row more: of these options
};

/// Layers whose caches are alike.
struct CacheShape {
  std::int64_t layers = 0;
  std::int64_t heads = 0;  ///< 1 of a latent cache
  std::int64_t k_dim = 0;
  std::int64_t v_dim = 0;  ///< 0 of a latent cache
  std::optional<std::int64_t> window = {};

  bool operator==(const CacheShape&) const = default;
};

enum class SizeKind { kBaseline, kTq, kGiven, kOther };
std::string_view name_of(SizeKind kind);  ///< "baseline", "tq", "given", "other"

/// The cache under one scheme.
struct CacheSize {
  std::string name;  ///< "bf16", "k4v3", "given", "kivi2"
  SizeKind kind = SizeKind::kTq;
  std::string text;     ///< of tq's: K's and V's scheme of the first layer that has a cache
  std::string refused;  ///< why the scheme cannot hold this model; then there are no bytes
  std::vector<std::uint64_t> bytes;  ///< one a context, of the whole batch
};

/// The weights in one form.
struct WeightSize {
  std::string name;  ///< "bf16", "tq3, 4 bits"
  int bits = 16;
  std::uint64_t bytes = 0;  ///< of all tensors
  std::uint64_t quantized =
      0;  ///< of those that TQ3 quantizes: codes and norms, padding of the last group included
  std::uint64_t kept = 0;  ///< of the others, in BF16
};

struct SizePlan {
  std::vector<std::int64_t> contexts;
  std::int64_t batch = 1;
  bool latent = false;
  std::int64_t layers = 0;  ///< all of the model
  std::vector<CacheShape>
      shapes;  ///< in the order of the layers; layers without a cache are in none
  std::vector<CacheSize> caches;  ///< the baseline first
  std::uint64_t parameters = 0;   ///< values of all tensors; 0: not known
  std::uint64_t quantized_parameters = 0;
  std::vector<WeightSize>
      weights;  ///< BF16, then native TQ3 at 4, 3 and 2 bits, groups of 128; empty: not known
  std::vector<std::string> notes;  ///< what was assumed of this model
};

/// Error, which names config.json: sizes that overflow 64 bits, more tensors than list_tensors() lists, and for the options'
/// scheme what KvSchemeOptions::scheme_of() refuses.
SizePlan plan_size(const ModelConfig& config, const SizeOptions& options);

/// All of it as a JSON object; `model` is its name.
std::string format_size_json(const SizePlan& plan, const std::string& model,
                             const ModelConfig& config);

}  // namespace tq
