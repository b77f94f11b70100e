// Attention on a GPU, float32 from end to end: blocks of queries against the keys that they can see, softmax, then the values. For
// host code.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/gpu_gemm.h"
#include "kernels/gpu_memory.h"
#include "kernels/gpu_staging.h"
#include "lib/model/attention.h"

namespace tq {

class GpuAttention {
 public:
  /// Both must outlive this.
  GpuAttention(Gemm& gemm, Staging& staging) : gemm_(gemm), staging_(staging) {}

  /// As attend() (lib/model/attention.h), on the current device. KV heads and queries are taken in groups of about `budget` bytes.
  void attend(const AttentionTask& task, std::int64_t budget, std::span<float> out);

 private:
  /// A side of the cache on the device: all of it, or its newest tokens' exact rows.
  struct Side {
    DeviceBuffer k, v, weights;
  };

  void upload_side(Side& side, const AttentionTask& a, std::span<const float> k, std::span<const float> v, std::int64_t first,
                   std::int64_t heads);
  void attend_heads(const AttentionTask& a, std::int64_t first, std::int64_t count, std::int64_t budget, float* out);
  void attend_block(const AttentionTask& a, std::int64_t kv_heads, std::int64_t first, std::int64_t queries);
  void multiply_keys(const AttentionTask& a, Side& side, std::int64_t kv_heads, std::int64_t first_key, std::int64_t keys,
                     std::int64_t queries);
  void add_values(const AttentionTask& a, Side& side, std::int64_t kv_heads, std::int64_t first_key, std::int64_t keys,
                  std::int64_t queries, bool add);

  Gemm& gemm_;
  Staging& staging_;
  Side cache_, recent_;
  DeviceBuffer q_, q_block_, sinks_, out_block_, out_;
};

}  // namespace tq
