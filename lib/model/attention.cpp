#include "lib/model/attention.h"

#include <algorithm>
#include <cmath>

#include "lib/model/forward_device.h"
#include "lib/model/matmul.h"
#include "lib/parallel.h"

namespace tq {
namespace {

constexpr std::int64_t kBlockQueries = 64;

/// Buffers of one block of queries, reused from block to block of a thread.
struct Buffers {
  std::vector<float> weights;         // [queries][keys]: logits, then softmax
  std::vector<float> recent_weights;  // the same of the recent keys
};

std::int64_t query_rows(const AttentionTask& a) { return a.tokens - a.past; }

std::int64_t count_blocks(const AttentionTask& a) { return (query_rows(a) + kBlockQueries - 1) / kBlockQueries; }

/// One head's queries first .. first + count - 1, which see keys key .. key + keys - 1 at most.
struct Block {
  std::int64_t head, kv_head, first, count, key, keys;
};

Block make_block(const AttentionTask& a, std::int64_t index) {
  const std::int64_t blocks = count_blocks(a);
  Block b;
  b.head = index / blocks;
  b.kv_head = b.head / (a.heads / a.kv_heads);
  b.first = index % blocks * kBlockQueries;
  b.count = std::min(kBlockQueries, query_rows(a) - b.first);
  b.key = a.window ? std::max<std::int64_t>(0, a.past + b.first - *a.window + 1) : 0;
  b.keys = a.past + b.first + b.count - b.key;
  return b;
}

void multiply_keys(const AttentionTask& a, const Block& b, const float* k, float* logits) {
  matmul_kernel().by_rows({a.q.data() + (b.head * query_rows(a) + b.first) * a.k_dim, a.k_dim, b.count,
                           k + (b.kv_head * a.tokens + b.key) * a.k_dim, a.k_dim, b.keys, a.k_dim, logits, b.keys, false});
}

void add_values(const AttentionTask& a, const Block& b, const float* weights, const float* v, float* out, bool add) {
  matmul_kernel().by_columns({weights, b.keys, b.count, v + (b.kv_head * a.tokens + b.key) * a.v_dim, a.v_dim, a.v_dim,
                              b.keys, out + (b.first * a.heads + b.head) * a.v_dim, a.heads * a.v_dim, add});
}

/// The softmax of logits[begin..end), with the sink in the sum; zeros elsewhere in the row.
void softmax_row(const AttentionTask& a, const Block& b, std::int64_t begin, std::int64_t end, float* logits) {
  float top = a.sinks.empty() ? -INFINITY : a.sinks[static_cast<std::size_t>(b.head)];
  for (std::int64_t i = begin; i < end; ++i) {
    double logit = static_cast<double>(logits[i]) * a.scale;
    if (a.softcap) logit = *a.softcap * std::tanh(logit / *a.softcap);
    logits[i] = static_cast<float>(logit);
    top = std::max(top, logits[i]);
  }
  double sum = a.sinks.empty() ? 0.0 : std::exp(static_cast<double>(a.sinks[static_cast<std::size_t>(b.head)] - top));
  for (std::int64_t i = begin; i < end; ++i) {
    logits[i] = std::exp(logits[i] - top);
    sum += static_cast<double>(logits[i]);
  }
  const auto scale = static_cast<float>(1.0 / sum);
  for (std::int64_t i = begin; i < end; ++i) logits[i] *= scale;
  std::fill(logits, logits + begin, 0.0f);
  std::fill(logits + end, logits + b.keys, 0.0f);
}

void run_block(const AttentionTask& a, const Block& b, Buffers& buffers, float* out) {
  const bool has_recent = a.recent > 0;
  buffers.weights.resize(static_cast<std::size_t>(b.count * b.keys));
  float* weights = buffers.weights.data();
  multiply_keys(a, b, a.k.data(), weights);
  if (has_recent) {
    buffers.recent_weights.resize(buffers.weights.size());
    multiply_keys(a, b, a.recent_k.data(), buffers.recent_weights.data());
  }
  for (std::int64_t i = 0; i < b.count; ++i) {
    const std::int64_t end = a.past + b.first + i + 1 - b.key;
    const std::int64_t begin = a.window ? std::max<std::int64_t>(0, end - *a.window) : 0;
    const std::int64_t split = has_recent ? std::max(begin, end - a.recent) : end;
    float* row = weights + i * b.keys;
    float* recent = has_recent ? buffers.recent_weights.data() + i * b.keys : nullptr;
    if (has_recent) std::copy(recent + split, recent + end, row + split);
    softmax_row(a, b, begin, end, row);
    if (!has_recent) continue;
    std::fill(recent, recent + b.keys, 0.0f);
    std::copy(row + split, row + end, recent + split);
    std::fill(row + split, row + end, 0.0f);
  }
  add_values(a, b, weights, a.v.data(), out, false);
  if (has_recent) add_values(a, b, buffers.recent_weights.data(), a.recent_v.data(), out, true);
}

}  // namespace

std::vector<float> attend(const AttentionTask& task, int threads, ForwardDevice* device) {
  std::vector<float> out(static_cast<std::size_t>(query_rows(task) * task.heads * task.v_dim));
  if (device != nullptr) {
    device->attend(task, threads, out);
    return out;
  }
  parallel_for(threads, task.heads * count_blocks(task), [&](std::int64_t index) {
    static thread_local Buffers buffers;
    run_block(task, make_block(task, index), buffers, out.data());
  });
  return out;
}

}  // namespace tq
