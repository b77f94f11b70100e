// The launchers of forward.cu and attention_stats.cu. All pointers are to device memory, strides are in elements; each starts work
// on the thread's stream, and throws Error when CUDA refuses. No CUDA type is named here, so host code can include it.
#pragma once

#include <cstdint>

#include "lib/dtype.h"
#include "lib/measure/attention_stats.h"
#include "lib/model/activation.h"

namespace tq::cuda {

/// BF16 parts of a matrix (kernels/bf16_parts.h): part p begins at data + p * step; rows are `stride` values apart, zeros beyond
/// the width.
struct Parts {
  std::uint16_t* data = nullptr;
  std::int64_t stride = 0;
  std::int64_t step = 0;
  int count = 0;
};

/// from [rows][from_stride] of F32, F16 or BF16, of which `width` values count.
void split_rows(DType dtype, const void* from, std::int64_t from_stride, std::int64_t rows, std::int64_t width, const Parts& to);

/// What stands between the products of an MLP. `gate` null: activate(up); `fused`: gate and up in turns in `gate`, 2 width a row.
struct ActivateArgs {
  Activation activation;
  float limit, alpha;
  bool fused;
  const float* gate;
  const float* up;
  std::int64_t stride;  ///< of gate and up
  std::int64_t rows, width;
};
void activate_rows(const ActivateArgs& args, const Parts& to);

/// y [rows][stride] += bias [width].
void add_bias(float* y, std::int64_t stride, std::int64_t rows, std::int64_t width, const float* bias);

/// Logits become softmax weights, in place. Row h * queries + i of [heads * queries][stride] is query i of head h; column c is key
/// first_key + c. What lies before the first visible key or after the last becomes 0, up to `keys`.
struct SoftmaxArgs {
  float* weights;
  float* recent_weights;      ///< the same shape, or null: logits with the recent keys; gets the weights of those
  std::int64_t stride;
  std::int64_t heads, queries, keys;
  std::int64_t position;      ///< of query 0
  std::int64_t first_key;
  std::int64_t window;        ///< tokens that a query sees; 0: all
  std::int64_t recent;        ///< as AttentionTask::recent
  double scale, softcap;      ///< softcap 0: none
  const float* sinks;         ///< [heads], or null
};
void softmax_rows(const SoftmaxArgs& args);

/// from [heads][queries][dim] -> to [queries][heads][dim].
void join_heads(const float* from, std::int64_t heads, std::int64_t queries, std::int64_t dim, float* to);

/// compare_logits() of lib/measure/attention_stats.h for every row. Row r of [rows][stride] is query first_row + r of
/// [query_heads][q_tokens]; columns are keys 0..tokens-1. Logits become softmax weights in place, 0 where nothing is visible. The
/// weights of the newest `recent` keys leave p_hat for p_new (where recent > 0).
struct CompareLogitsArgs {
  float* p;      ///< products with k
  float* p_hat;  ///< products with k_hat
  float* p_new;
  std::int64_t stride, rows, first_row;
  std::int64_t q_tokens, tokens;
  std::int64_t window;  ///< 0: none
  std::int64_t recent;
  double scale, softcap;  ///< softcap 0: none
  const float* sinks;     ///< [query_heads], or null
  LogitComparison* found;          ///< [rows]
  unsigned long long* overflowed;  ///< becomes the smaller of its value and the first row (of all) with a logit that is not finite
};
void compare_logits_rows(const CompareLogitsArgs& args);

}  // namespace tq::cuda
