// Causal softmax attention of a prompt over its own keys and values, in blocks of queries, so that
// memory grows with the tokens and not with their square.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace tq {

/// Float32. Query head h reads key head h / (heads / kv_heads).
struct AttentionTask {
  std::span<const float> q;  ///< [heads][tokens - past][k_dim]
  std::span<const float> k;  ///< [kv_heads][tokens][k_dim]
  std::span<const float> v;  ///< [kv_heads][tokens][v_dim]
  std::int64_t heads = 0, kv_heads = 0, tokens = 0, k_dim = 0, v_dim = 0;
  double scale = 1;
  std::int64_t past = 0;                 ///< tokens before the first query: q has tokens - past rows a head
  std::optional<double> softcap{};       ///< a logit becomes cap tanh(logit / cap)
  std::optional<std::int64_t> window{};  ///< tokens that a query sees, itself included
  std::span<const float> sinks{};        ///< [heads] or none: a logit more, without a value

  /// A cache that keeps its newest tokens exact: a query reads the last `recent` tokens that it
  /// sees, itself included, from recent_k and recent_v (shaped as k and v), older ones from k and v.
  std::int64_t recent = 0;
  std::span<const float> recent_k{};
  std::span<const float> recent_v{};
};

class ForwardDevice;

/// The output, [tokens - past][heads][v_dim]: what the output projection reads. Memory a thread beside it:
/// 64 rows of tokens + 2 (k_dim + v_dim) floats. `device`: what computes it; nullptr: the CPU.
std::vector<float> attend(const AttentionTask& task, int threads, ForwardDevice* device = nullptr);

}  // namespace tq
