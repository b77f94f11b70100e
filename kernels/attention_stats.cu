// The statistics of lib/measure/attention_stats.h, a query a block: as there, logits and all sums are double, and softmax weights
// are floats. Sums are taken in another order, which is the only difference.
#include "kernels/cuda_check.h"
#include "kernels/gpu_forward_kernels.h"
#include "kernels/gpu_reduce.h"

namespace tq::cuda {
namespace {

/// The sink's place in a softmax: after every key.
constexpr std::int64_t kSinkPlace = std::int64_t{1} << 62;

struct Row {
  std::int64_t begin, end, split;  ///< visible keys, and the first of the newest among them
  double sink;
  bool has_sink;
};

__device__ Row row_of_block(const CompareLogitsArgs& args) {
  const std::int64_t query = args.first_row + blockIdx.x;
  const std::int64_t head = query / args.q_tokens;
  Row row;
  row.end = args.tokens - args.q_tokens + query % args.q_tokens + 1;
  row.begin = args.window > 0 ? max(std::int64_t{0}, row.end - args.window) : 0;
  row.split = max(row.begin, row.end - args.recent);
  row.has_sink = args.sinks != nullptr;
  row.sink = row.has_sink ? static_cast<double>(args.sinks[head]) : 0.0;
  return row;
}

__device__ double finish_logit(const CompareLogitsArgs& args, float product) {
  const double logit = args.scale * static_cast<double>(product);
  return args.softcap > 0 ? args.softcap * tanh(logit / args.softcap) : logit;
}

__device__ float as_weight(double weight) { return weight < 1e-30 ? 0.0f : static_cast<float>(weight); }

/// Sums of one thread, then of the block.
struct LogitSums {
  double weights = 0, weights_hat = 0, weighted_gap = 0, error_energy = 0;

  __device__ void add(double below, double below_hat, double difference) {
    const double weight = exp(below);
    weights += weight;
    weights_hat += exp(below_hat);
    weighted_gap += weight * (below - below_hat);
    error_energy += difference * difference;
  }
};

__global__ void __launch_bounds__(kRowThreads) compare(const CompareLogitsArgs args) {
  const Row row = row_of_block(args);
  float* p = args.p + blockIdx.x * args.stride;
  float* p_hat = args.p_hat + blockIdx.x * args.stride;
  float* p_new = args.recent > 0 ? args.p_new + blockIdx.x * args.stride : nullptr;
  const auto logit_at = [&](std::int64_t i) { return finish_logit(args, p[i]); };
  const auto logit_hat_at = [&](std::int64_t i) { return i < row.split ? finish_logit(args, p_hat[i]) : logit_at(i); };

  Top top = {row.has_sink ? row.sink : -INFINITY, kSinkPlace}, top_hat = top;
  bool finite = true;
  for (std::int64_t i = row.begin + threadIdx.x; i < row.end; i += kRowThreads) {
    const double logit = logit_at(i), logit_hat = logit_hat_at(i);
    finite = finite && isfinite(logit) && isfinite(logit_hat);
    top = larger(top, {logit, i});
    top_hat = larger(top_hat, {logit_hat, i});
  }
  if (!finite) atomicMin(args.overflowed, static_cast<unsigned long long>(args.first_row + blockIdx.x));
  top = top_of_block(top);
  top_hat = top_of_block(top_hat);

  LogitSums sums;
  for (std::int64_t i = row.begin + threadIdx.x; i < row.end; i += kRowThreads) {
    const double logit = logit_at(i), logit_hat = logit_hat_at(i);
    sums.add(logit - top.value, logit_hat - top_hat.value, logit - logit_hat);
  }
  if (row.has_sink && threadIdx.x == 0) sums.add(row.sink - top.value, row.sink - top_hat.value, 0);
  const double sum = sum_of_block(sums.weights), sum_hat = sum_of_block(sums.weights_hat);
  const double gap = sum_of_block(sums.weighted_gap), energy = sum_of_block(sums.error_energy);
  if (threadIdx.x == 0) {
    const double kl = gap / sum + (log(sum_hat) - log(sum));
    args.found[blockIdx.x] = {row.end - row.begin, energy, kl < 0 ? 0.0 : kl, top.place == top_hat.place};
  }
  for (std::int64_t i = threadIdx.x; i < args.tokens; i += kRowThreads) {
    const bool visible = i >= row.begin && i < row.end;
    const float weight = visible ? as_weight(exp(logit_at(i) - top.value)) : 0.0f;
    const float weight_hat = visible ? as_weight(exp(logit_hat_at(i) - top_hat.value)) : 0.0f;
    const auto share = static_cast<float>(static_cast<double>(weight) / sum);
    const auto share_hat = static_cast<float>(static_cast<double>(weight_hat) / sum_hat);
    const bool moved = p_new != nullptr && i >= row.split;
    p[i] = share;
    p_hat[i] = moved ? 0.0f : share_hat;
    if (p_new != nullptr) p_new[i] = moved ? share_hat : 0.0f;
  }
}

}  // namespace

void compare_logits_rows(const CompareLogitsArgs& args) {
  compare<<<static_cast<unsigned>(args.rows), kRowThreads>>>(args);
  check_cuda(cudaGetLastError(), "starting to compare logits");
}

}  // namespace tq::cuda
