// The two halves of a transformer layer, each a function of the (normed) hidden states.
#pragma once

#include <span>
#include <vector>

#include "lib/model/linear.h"
#include "lib/model/prefill.h"
#include "lib/model/rope.h"

namespace tq {

struct LayerInput {
  const RunContext& context;
  const ModelConfig& config;
  const LayerLayout& layout;
  const LayerConfig& layer;
  int index;
  std::int64_t tokens;
  std::int64_t past;  ///< tokens read before these
};

/// Attention: x [tokens][hidden] -> [tokens][hidden]. `rope` is the layer's table.
std::vector<float> run_attention(const LayerInput& in, const RopeTable& rope, const PrefillOptions& options,
                                 std::span<const float> x);

/// MLP or mixture of experts: x [tokens][hidden] -> [tokens][hidden].
std::vector<float> run_mlp(const LayerInput& in, std::span<const float> x);

}  // namespace tq
