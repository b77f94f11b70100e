// What lies between the products of a forward pass: splitting into BF16 parts, activations, biases, softmax. Each reads and writes
// its matrix once, neighbours by neighbouring threads: device memory is the limit. The fast tier: nothing here reaches a file
// byte for byte.
#include "kernels/bf16_parts.h"
#include "kernels/cuda_check.h"
#include "kernels/gpu_forward_kernels.h"
#include "kernels/gpu_reduce.h"
#include "kernels/gpu_rows.h"

namespace tq::cuda {
namespace {

// ---- A matrix, a value a thread: columns along x, rows along y.

constexpr int kColumns = 256;
constexpr std::int64_t kMostGridRows = 65535;

dim3 grid_of(std::int64_t rows, std::int64_t columns) {
  return {static_cast<unsigned>((columns + kColumns - 1) / kColumns),
          static_cast<unsigned>(rows < kMostGridRows ? rows : kMostGridRows)};
}

__device__ std::int64_t column_of_thread() { return static_cast<std::int64_t>(blockIdx.x) * kColumns + threadIdx.x; }

__device__ void store_parts(float x, std::int64_t at, const Parts& to) {
  for (int p = 0; p < to.count; ++p) to.data[p * to.step + at] = take_part(x);
}

template <DType kFrom>
__device__ float load_value(const void* from, std::int64_t at) {
  if constexpr (kFrom == DType::kF32) return static_cast<const float*>(from)[at];
  const std::int32_t bits = static_cast<const std::uint16_t*>(from)[at];
  return kFrom == DType::kF16 ? math::float_from_f16(bits) : math::float_from_bf16(bits);
}

template <DType kFrom>
__global__ void split(const void* from, std::int64_t from_stride, std::int64_t rows, std::int64_t width, const Parts to) {
  const std::int64_t c = column_of_thread();
  if (c >= to.stride) return;
  for (std::int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
    store_parts(c < width ? load_value<kFrom>(from, r * from_stride + c) : 0.0f, r * to.stride + c, to);
  }
}

__global__ void activate_matrix(const ActivateArgs args, const Parts to) {
  const std::int64_t c = column_of_thread();
  if (c >= to.stride) return;
  for (std::int64_t r = blockIdx.y; r < args.rows; r += gridDim.y) {
    float h = 0;
    if (c < args.width) {
      const std::int64_t row = r * args.stride;
      if (args.fused) {
        h = activate_clamped(args.gate[row + 2 * c], args.gate[row + 2 * c + 1], args.limit, args.alpha);
      } else if (args.gate != nullptr) {
        h = activate(args.activation, args.gate[row + c]) * args.up[row + c];
      } else {
        h = activate(args.activation, args.up[row + c]);
      }
    }
    store_parts(h, r * to.stride + c, to);
  }
}

__global__ void add_to_rows(float* y, std::int64_t stride, std::int64_t rows, std::int64_t width, const float* bias) {
  const std::int64_t c = column_of_thread();
  if (c >= width) return;
  for (std::int64_t r = blockIdx.y; r < rows; r += gridDim.y) y[r * stride + c] += bias[c];
}

__global__ void join(const float* from, std::int64_t heads, std::int64_t queries, std::int64_t dim, float* to) {
  const std::int64_t c = column_of_thread();
  if (c >= heads * dim) return;
  const std::int64_t head = c / dim;
  for (std::int64_t q = blockIdx.y; q < queries; q += gridDim.y) {
    to[q * heads * dim + c] = from[(head * queries + q) * dim + c % dim];
  }
}

// ---- Softmax: a row a block.

__global__ void __launch_bounds__(kRowThreads) softmax(const SoftmaxArgs args) {
  const std::int64_t row = blockIdx.x;
  const std::int64_t head = row / args.queries;
  const std::int64_t end = args.position + row % args.queries + 1 - args.first_key;
  const std::int64_t begin = args.window > 0 ? max(std::int64_t{0}, end - args.window) : 0;
  const std::int64_t split = args.recent > 0 ? max(begin, end - args.recent) : end;
  float* weights = args.weights + row * args.stride;
  float* recent = args.recent > 0 ? args.recent_weights + row * args.stride : nullptr;
  const float sink = args.sinks != nullptr ? args.sinks[head] : -INFINITY;

  Top top = {static_cast<double>(sink), 0};
  for (std::int64_t i = begin + threadIdx.x; i < end; i += kRowThreads) {
    double logit = static_cast<double>(i < split ? weights[i] : recent[i]) * args.scale;
    if (args.softcap > 0) logit = args.softcap * tanh(logit / args.softcap);
    weights[i] = static_cast<float>(logit);
    top = larger(top, {static_cast<double>(weights[i]), 0});
  }
  const auto most = static_cast<float>(top_of_block(top).value);
  double sum = args.sinks != nullptr && threadIdx.x == 0 ? exp(static_cast<double>(sink - most)) : 0.0;
  for (std::int64_t i = begin + threadIdx.x; i < end; i += kRowThreads) {
    weights[i] = expf(weights[i] - most);
    sum += static_cast<double>(weights[i]);
  }
  const auto scale = static_cast<float>(1.0 / sum_of_block(sum));
  for (std::int64_t i = threadIdx.x; i < args.keys; i += kRowThreads) {
    const float weight = i >= begin && i < end ? weights[i] * scale : 0.0f;
    weights[i] = i < split ? weight : 0.0f;
    if (recent != nullptr) recent[i] = i < split ? 0.0f : weight;
  }
}

unsigned blocks_of(std::int64_t rows) { return static_cast<unsigned>(rows); }

}  // namespace

// ---- The launchers.

void split_rows(DType dtype, const void* from, std::int64_t from_stride, std::int64_t rows, std::int64_t width, const Parts& to) {
  const dim3 grid = grid_of(rows, to.stride);
  switch (dtype) {
    case DType::kF32: split<DType::kF32><<<grid, kColumns>>>(from, from_stride, rows, width, to); break;
    case DType::kF16: split<DType::kF16><<<grid, kColumns>>>(from, from_stride, rows, width, to); break;
    default: split<DType::kBf16><<<grid, kColumns>>>(from, from_stride, rows, width, to);
  }
  check_cuda(cudaGetLastError(), "starting to split a matrix");
}

void activate_rows(const ActivateArgs& args, const Parts& to) {
  activate_matrix<<<grid_of(args.rows, to.stride), kColumns>>>(args, to);
  check_cuda(cudaGetLastError(), "starting an activation");
}

void add_bias(float* y, std::int64_t stride, std::int64_t rows, std::int64_t width, const float* bias) {
  add_to_rows<<<grid_of(rows, width), kColumns>>>(y, stride, rows, width, bias);
  check_cuda(cudaGetLastError(), "starting to add a bias");
}

void softmax_rows(const SoftmaxArgs& args) {
  softmax<<<blocks_of(args.heads * args.queries), kRowThreads>>>(args);
  check_cuda(cudaGetLastError(), "starting a softmax");
}

void join_heads(const float* from, std::int64_t heads, std::int64_t queries, std::int64_t dim, float* to) {
  join<<<grid_of(queries, heads * dim), kColumns>>>(from, heads, queries, dim, to);
  check_cuda(cudaGetLastError(), "starting to join heads");
}

}  // namespace tq::cuda
