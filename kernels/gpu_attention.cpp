#include "kernels/gpu_attention.h"

#include <algorithm>

#include "kernels/cuda_check.h"
#include "kernels/gpu_forward_kernels.h"

namespace tq {
namespace {

constexpr std::int64_t kFloatBytes = sizeof(float);
constexpr std::int64_t kMostQueries = 512;

}  // namespace

void GpuAttention::attend(const AttentionTask& task, std::int64_t budget, std::span<float> out) {
  const std::int64_t group = task.heads / task.kv_heads, rows = task.tokens - task.past, sides = task.recent > 0 ? 2 : 1;
  const std::int64_t head_bytes =
      kFloatBytes * (group * rows * (task.k_dim + task.v_dim) + sides * task.tokens * (task.k_dim + task.v_dim));
  const std::int64_t step = std::clamp<std::int64_t>(budget / 2 / head_bytes, 1, task.kv_heads);
  for (std::int64_t head = 0; head < task.kv_heads; head += step) {
    attend_heads(task, head, std::min(step, task.kv_heads - head), budget, out.data());
  }
}

void GpuAttention::upload_side(Side& side, const AttentionTask& a, std::span<const float> k, std::span<const float> v,
                               std::int64_t first, std::int64_t heads) {
  side.k.reserve(heads * a.tokens * a.k_dim * kFloatBytes);
  side.v.reserve(heads * a.tokens * a.v_dim * kFloatBytes);
  const std::int64_t k_size = a.tokens * a.k_dim, v_size = a.tokens * a.v_dim;
  staging_.upload(k.data() + first * k_size, k_size, heads, k_size, side.k.as<float>());
  staging_.upload(v.data() + first * v_size, v_size, heads, v_size, side.v.as<float>());
}

/// KV heads first .. first + count - 1, with the queries that share them.
void GpuAttention::attend_heads(const AttentionTask& a, std::int64_t first, std::int64_t count, std::int64_t budget, float* out) {
  const std::int64_t group = a.heads / a.kv_heads, rows = a.tokens - a.past, heads = count * group;
  const bool has_recent = a.recent > 0;
  const std::int64_t q_size = rows * a.k_dim;
  q_.reserve(heads * q_size * kFloatBytes);
  staging_.upload(a.q.data() + first * group * q_size, q_size, heads, q_size, q_.as<float>());
  upload_side(cache_, a, a.k, a.v, first, count);
  if (has_recent) upload_side(recent_, a, a.recent_k, a.recent_v, first, count);
  if (!a.sinks.empty()) sinks_.upload(a.sinks.data() + first * group, heads * kFloatBytes, "copying sinks");
  out_.reserve(heads * rows * a.v_dim * kFloatBytes);

  const std::int64_t row_bytes = kFloatBytes * heads * ((has_recent ? 2 : 1) * stride_of(a.tokens) + a.k_dim + a.v_dim);
  const std::int64_t step = std::clamp<std::int64_t>(budget / 2 / row_bytes, 1, kMostQueries);
  for (std::int64_t query = 0; query < rows; query += step) {
    attend_block(a, count, query, std::min(step, rows - query));
  }
  const std::int64_t width = heads * a.v_dim;
  staging_.download(out_.as<float>(), width, rows, width, out + first * group * a.v_dim, a.heads * a.v_dim);
}

/// Queries first .. first + queries - 1 of all heads on the device.
void GpuAttention::attend_block(const AttentionTask& a, std::int64_t kv_heads, std::int64_t first, std::int64_t queries) {
  const std::int64_t group = a.heads / a.kv_heads, heads = kv_heads * group, rows = a.tokens - a.past;
  const std::int64_t position = a.past + first;
  const std::int64_t first_key = a.window ? std::max<std::int64_t>(0, position - *a.window + 1) / 32 * 32 : 0;
  const std::int64_t keys = position + queries - first_key, stride = stride_of(keys);
  q_block_.reserve(heads * queries * a.k_dim * kFloatBytes);
  const auto row_bytes = static_cast<std::size_t>(a.k_dim * kFloatBytes);
  check_cuda(cudaMemcpy2DAsync(q_block_.as<void>(), static_cast<std::size_t>(queries) * row_bytes, q_.as<float>() + first * a.k_dim,
                               static_cast<std::size_t>(rows) * row_bytes, static_cast<std::size_t>(queries) * row_bytes,
                               static_cast<std::size_t>(heads), cudaMemcpyDeviceToDevice, nullptr),
             "gathering queries");
  multiply_keys(a, cache_, kv_heads, first_key, keys, queries);
  if (a.recent > 0) multiply_keys(a, recent_, kv_heads, first_key, keys, queries);
  cuda::softmax_rows({cache_.weights.as<float>(), a.recent > 0 ? recent_.weights.as<float>() : nullptr, stride, heads, queries, keys,
                      position, first_key, a.window.value_or(0), a.recent, a.scale, a.softcap.value_or(0),
                      a.sinks.empty() ? nullptr : sinks_.as<float>()});
  out_block_.reserve(heads * queries * a.v_dim * kFloatBytes);
  add_values(a, cache_, kv_heads, first_key, keys, queries, false);
  if (a.recent > 0) add_values(a, recent_, kv_heads, first_key, keys, queries, true);
  cuda::join_heads(out_block_.as<float>(), heads, queries, a.v_dim, out_.as<float>() + first * heads * a.v_dim);
}

void GpuAttention::multiply_keys(const AttentionTask& a, Side& side, std::int64_t kv_heads, std::int64_t first_key, std::int64_t keys,
                                 std::int64_t queries) {
  const std::int64_t rows = a.heads / a.kv_heads * queries, stride = stride_of(keys);
  side.weights.reserve(kv_heads * rows * stride * kFloatBytes);
  GemmArgs args;
  args.x = q_block_.as<float>();
  args.x_stride = a.k_dim;
  args.tokens = rows;
  args.w = side.k.as<float>() + first_key * a.k_dim;
  args.w_stride = a.k_dim;
  args.columns = keys;
  args.depth = a.k_dim;
  args.y = side.weights.as<float>();
  args.y_stride = stride;
  args.batch = kv_heads;
  args.x_step = rows * a.k_dim;
  args.w_step = a.tokens * a.k_dim;
  args.y_step = rows * stride;
  gemm_.multiply(args);
}

void GpuAttention::add_values(const AttentionTask& a, Side& side, std::int64_t kv_heads, std::int64_t first_key, std::int64_t keys,
                              std::int64_t queries, bool add) {
  const std::int64_t rows = a.heads / a.kv_heads * queries, stride = stride_of(keys);
  GemmArgs args;
  args.x = side.weights.as<float>();
  args.x_stride = stride;
  args.tokens = rows;
  args.w = side.v.as<float>() + first_key * a.v_dim;
  args.w_stride = a.v_dim;
  args.columns = a.v_dim;
  args.depth = keys;
  args.by_columns = true;
  args.y = out_block_.as<float>();
  args.y_stride = a.v_dim;
  args.add = add;
  args.batch = kv_heads;
  args.x_step = rows * stride;
  args.w_step = a.tokens * a.v_dim;
  args.y_step = rows * a.v_dim;
  gemm_.multiply(args);
}

}  // namespace tq
