// Float32 matrix products for the model's forward pass: the fast tier, compiled once per instruction
// set (kernels/matmul.cpp). The order of a sum depends on the instruction set, not on the threads.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tq {

/// y[t][c] = or += sum over k of x[t][k] w(k, c); t < tokens, c < columns, k < depth. Strides are
/// in floats.
struct MatmulArgs {
  const float* x = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t tokens = 0;
  const float* w = nullptr;
  std::int64_t w_stride = 0;
  std::int64_t columns = 0;
  std::int64_t depth = 0;
  float* y = nullptr;
  std::int64_t y_stride = 0;
  bool add = false;
};

struct MatmulKernel {
  const char* name;
  void (*by_rows)(const MatmulArgs&);     ///< w(k, c) = w[c * w_stride + k], as weights are stored
  void (*by_columns)(const MatmulArgs&);  ///< w(k, c) = w[k * w_stride + c]
};

/// The fastest that runs here, or the one that the environment variable TQ_CPU names.
const MatmulKernel& matmul_kernel();

/// All that run here, slowest first.
std::vector<const MatmulKernel*> matmul_kernels();

}  // namespace tq
