// Rotary position embeddings (Su et al., RoFormer, arXiv 2104.09864): channel pair i of a head at
// position t turns by t * inv_freq[i]. Scalings of inv_freq:
//   linear    inv_freq / factor
//   dynamic   theta grows with the prompt: theta (factor T / context - (factor - 1))^(d / (d - 2))
//   yarn      per channel between inv_freq and inv_freq / factor (arXiv 2309.00071)
//   longrope  inv_freq / short_factor, or / long_factor for a prompt beyond the original context
//   llama3    low frequencies / factor, high ones as they are, a ramp between
// yarn and longrope also multiply cos and sin by an attention factor.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/model/config.h"

namespace tq {

/// cos and sin of every position, computed in float32 as published implementations do, so that the
/// angles agree at long contexts too.
struct RopeTable {
  int dims = 0;
  std::vector<float> cos, sin;  ///< [tokens][dims / 2]
};

/// inv_freq, dims / 2 values, for a prompt of that many tokens, and the factor on cos and sin.
std::vector<float> rope_frequencies(const RopeConfig& config, std::int64_t tokens, double& attention_factor);

RopeTable make_rope_table(const RopeConfig& config, std::int64_t tokens);

/// Turns the first table.dims channels of `rows` rows, each `stride` floats after the other, in
/// place. Row r is at position first_position + r.
void apply_rope(const RopeTable& table, RopePairs pairs, std::int64_t first_position, std::int64_t rows,
                std::int64_t stride, float* x);

}  // namespace tq
