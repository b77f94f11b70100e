// Compare on the GPU: eight lanes a row, lane j adds the elements i with i mod 8 = j in double, and three exchanges add the eight
// as a pairwise tree. These are the sums of lib/math/compare.h in their order, so every bit is the CPU's.
#include <algorithm>

#include "kernels/cuda_check.h"
#include "kernels/gpu_rows.h"
#include "kernels/gpu_target.h"
#include "lib/math/row.h"

namespace tq::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLanesPerRow = 8;
constexpr int kRows = kThreads / kLanesPerRow;

__device__ __forceinline__ double load_element(DType dtype, const std::uint8_t* row, int i) {
  if (dtype == DType::kF32) return reinterpret_cast<const float*>(row)[i];
  const std::uint16_t half = reinterpret_cast<const std::uint16_t*>(row)[i];
  return dtype == DType::kF16 ? math::float_from_f16<std::int32_t>(half) : math::float_from_bf16<std::int32_t>(half);
}

__device__ __forceinline__ double sum_lanes(double sum) {
#pragma unroll
  for (int lanes = 1; lanes < kLanesPerRow; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  return sum;
}

__global__ void __launch_bounds__(kThreads) compare_any(const __grid_constant__ CompareArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % kLanesPerRow;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kRows + threadIdx.x / kLanesPerRow;
  RowSums sums;
  if (row < args.count) {
    const std::uint8_t* x = args.x + row * args.dim * element_bytes(args.dtype);
    const std::uint8_t* x_hat = args.x_hat + row * args.dim * element_bytes(args.hat_dtype);
    const int padded = (args.dim + kLanesPerRow - 1) / kLanesPerRow * kLanesPerRow;  // with zeros, as on the CPU
    for (int i = lane; i < padded; i += kLanesPerRow) {
      const double a = i < args.dim ? load_element(args.dtype, x, i) : 0.0;
      const double b = i < args.dim ? load_element(args.hat_dtype, x_hat, i) : 0.0;
      const double error = a - b;
      sums.dot += a * b;
      sums.x_energy += a * a;
      sums.x_hat_energy += b * b;
      sums.error_energy += error * error;
    }
  }
  sums = {sum_lanes(sums.dot), sum_lanes(sums.x_energy), sum_lanes(sums.x_hat_energy), sum_lanes(sums.error_energy)};
  if (row < args.count && lane == 0) args.sums[row] = sums;
}

}  // namespace

void compare_rows(const CompareArgs& args) {
  const int dim = std::min(args.dim, math::kMaxDim);  // rows of any length
  check_launch("compare", 1, dim, args.dtype, args.count);
  check_launch("compare", 1, dim, args.hat_dtype, args.count);
  compare_any<<<static_cast<unsigned>((args.count + kRows - 1) / kRows), kThreads>>>(args);
  check_cuda(cudaGetLastError(), "starting to compare");
}

}  // namespace tq::cuda
