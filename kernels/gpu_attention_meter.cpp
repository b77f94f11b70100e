// measure_attention() on a GPU: a KV head with its queries goes up, two products give the logits of both caches, a kernel compares
// them and leaves softmax weights, two products give the outputs. Both caches go through the same products, so that equal ones give
// equal bits.
#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <vector>

#include "kernels/gpu_backend.h"
#include "kernels/gpu_forward.h"
#include "kernels/gpu_forward_kernels.h"
#include "kernels/gpu_gemm.h"
#include "kernels/gpu_memory.h"
#include "kernels/gpu_target.h"
#include "lib/error.h"

namespace tq {
namespace {

constexpr std::int64_t kFloatBytes = sizeof(float);
/// Of the weights of one side at once.
constexpr std::int64_t kBlockBytes = std::int64_t{256} << 20;

class CudaAttentionMeter {
 public:
  explicit CudaAttentionMeter(int device) : device_(device) {}

  AttentionStats measure(const AttentionInputs& in) {
    check_attention_inputs(in);
    const std::lock_guard lock(mutex_);
    check_cuda(cudaSetDevice(device_), "choosing the device");
    upload(in);
    const std::int64_t rows = in.query_heads * in.q_tokens, stride = stride_of(in.tokens);
    const std::int64_t step = std::clamp<std::int64_t>(kBlockBytes / (stride * kFloatBytes), 1, rows);
    AttentionStats stats;
    for (std::int64_t first = 0; first < rows; first += step) measure_rows(in, first, std::min(step, rows - first), stride, stats);
    return stats;
  }

 private:
  void upload(const AttentionInputs& in) {
    const auto copy = [](DeviceBuffer& to, std::span<const float> from) {
      to.upload(from.data(), static_cast<std::int64_t>(from.size_bytes()), "copying keys, values and queries");
    };
    copy(q_, in.q);
    copy(k_, in.k);
    copy(k_hat_, in.k_hat);
    copy(v_, in.v);
    copy(v_hat_, in.v_hat);
    if (!in.sinks.empty()) copy(sinks_, in.sinks);
    constexpr unsigned long long kNone = ~0ULL;
    overflowed_.upload(&kNone, sizeof(kNone), "clearing the overflow");
  }

  /// Rows of [query_heads][q_tokens].
  void measure_rows(const AttentionInputs& in, std::int64_t first, std::int64_t rows, std::int64_t stride, AttentionStats& stats) {
    multiply_keys(in, first, rows, stride, k_, p_);
    multiply_keys(in, first, rows, stride, k_hat_, p_hat_);
    if (in.recent > 0) p_new_.reserve(rows * stride * kFloatBytes);
    found_.reserve(rows * static_cast<std::int64_t>(sizeof(LogitComparison)));
    cuda::compare_logits_rows({p_.as<float>(), p_hat_.as<float>(), p_new_.as<float>(), stride, rows, first, in.q_tokens, in.tokens,
                               in.window.value_or(0), in.recent, in.scale, in.softcap.value_or(0),
                               in.sinks.empty() ? nullptr : sinks_.as<float>(), found_.as<LogitComparison>(),
                               overflowed_.as<unsigned long long>()});
    add_values(in, rows, stride, p_, v_, o_, false);
    add_values(in, rows, stride, p_hat_, v_hat_, o_hat_, false);
    if (in.recent > 0) add_values(in, rows, stride, p_new_, v_, o_hat_, true);
    sums_.reserve(rows * static_cast<std::int64_t>(sizeof(RowSums)));
    cuda::compare_rows({static_cast<int>(in.d_v), DType::kF32, o_.as<std::uint8_t>(), DType::kF32, o_hat_.as<std::uint8_t>(), rows,
                        sums_.as<RowSums>()});
    take(in, rows, stats);
  }

  void take(const AttentionInputs& in, std::int64_t rows, AttentionStats& stats) {
    unsigned long long overflowed = 0;
    overflowed_.download(&overflowed, sizeof(overflowed), "comparing attention");
    if (overflowed != ~0ULL) {
      const auto row = static_cast<std::int64_t>(overflowed);
      refuse_attention_logit(row / in.q_tokens, in.tokens - in.q_tokens + row % in.q_tokens);
    }
    std::vector<LogitComparison> found(static_cast<std::size_t>(rows));
    std::vector<RowSums> sums(static_cast<std::size_t>(rows));
    found_.download(found.data(), rows * static_cast<std::int64_t>(sizeof(LogitComparison)), "copying statistics back");
    sums_.download(sums.data(), rows * static_cast<std::int64_t>(sizeof(RowSums)), "copying statistics back");
    for (const LogitComparison& query : found) stats.add_logits(query);
    stats.add_output_sums(sums, static_cast<int>(in.d_v));
  }

  void multiply_keys(const AttentionInputs& in, std::int64_t first, std::int64_t rows, std::int64_t stride, const DeviceBuffer& k,
                     DeviceBuffer& products) {
    products.reserve(rows * stride * kFloatBytes);
    GemmArgs args;
    args.x = q_.as<float>() + first * in.d_k;
    args.x_stride = in.d_k;
    args.tokens = rows;
    args.w = k.as<float>();
    args.w_stride = in.d_k;
    args.columns = in.tokens;
    args.depth = in.d_k;
    args.y = products.as<float>();
    args.y_stride = stride;
    gemm_.multiply(args);
  }

  void add_values(const AttentionInputs& in, std::int64_t rows, std::int64_t stride, const DeviceBuffer& p, const DeviceBuffer& v,
                  DeviceBuffer& o, bool add) {
    o.reserve(rows * in.d_v * kFloatBytes);
    GemmArgs args;
    args.x = p.as<float>();
    args.x_stride = stride;
    args.tokens = rows;
    args.w = v.as<float>();
    args.w_stride = in.d_v;
    args.columns = in.d_v;
    args.depth = in.tokens;
    args.by_columns = true;
    args.y = o.as<float>();
    args.y_stride = in.d_v;
    args.add = add;
    gemm_.multiply(args);
  }

  int device_;
  std::mutex mutex_;  ///< guards what follows
  Gemm gemm_;
  DeviceBuffer q_, k_, k_hat_, v_, v_hat_, sinks_, p_, p_hat_, p_new_, o_, o_hat_, found_, sums_, overflowed_;
};

}  // namespace

MeasureAttention make_cuda_attention_meter(int device) {
  make_cuda_backend(device);  // there is such a device, and code for it
  const auto meter = std::make_shared<CudaAttentionMeter>(device);
  return [meter](const AttentionInputs& in) { return meter->measure(in); };
}

}  // namespace tq
