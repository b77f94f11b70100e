// The two halves of a transformer layer, each a function of the (normed) hidden states.
#pragma once

#include <span>
#include <vector>

#include "lib/model/linear.h"
#include "lib/model/prefill.h"
#include "lib/model/rope.h"

namespace tq {

/// Vectors that serve from layer to layer. At these sizes an allocator asks the system for new pages each time, and those cost more
/// than what is done with them.
struct LayerBuffers {
  std::vector<float> attention_input, attention, mlp_input, mlp;  ///< [tokens][hidden]
  std::vector<float> q, k, v;                                     ///< projections, token by token
  std::vector<float> mixed;                                       ///< what attention returns
  LayerKv kv;
};

struct LayerInput {
  const RunContext& context;
  const ModelConfig& config;
  const LayerLayout& layout;
  const LayerConfig& layer;
  int index;
  std::int64_t tokens;
  std::int64_t past;  ///< tokens read before these
  LayerBuffers& buffers;
};

/// Attention: x [tokens][hidden] -> out, resized to [tokens][hidden]. `rope` is the layer's table.
void run_attention(const LayerInput& in, const RopeTable& rope, const PrefillOptions& options, std::span<const float> x,
                   std::vector<float>& out);

/// MLP or mixture of experts: x [tokens][hidden] -> out, resized to [tokens][hidden].
void run_mlp(const LayerInput& in, std::span<const float> x, std::vector<float>& out);

}  // namespace tq
