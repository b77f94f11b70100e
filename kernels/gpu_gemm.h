// Matrix products on a CUDA device by cuBLASLt, which is opened when it is first needed: at 540 MB it is larger than all the rest,
// and only a forward pass wants it. Sums are float32, never TF32. For host code.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>

#include "lib/dtype.h"

namespace tq {

/// y[t][c] = or += sum over k of x[t][k] w(k, c); t < tokens, c < columns, k < depth: lib/model/matmul.h's words. Device memory;
/// strides and steps are in elements; a step leads from one product of the batch to the next.
struct GemmArgs {
  DType dtype = DType::kF32;  ///< of x and w: F32 or BF16
  const void* x = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t tokens = 0;
  const void* w = nullptr;
  std::int64_t w_stride = 0;
  std::int64_t columns = 0;
  std::int64_t depth = 0;
  bool by_columns = false;  ///< w(k, c) = w[k * w_stride + c]; else w[c * w_stride + k]
  float* y = nullptr;
  std::int64_t y_stride = 0;
  bool add = false;
  std::int64_t batch = 1;
  std::int64_t x_step = 0, w_step = 0, y_step = 0;
};

/// The numbers of a product that decide how it is computed, alignments included.
using GemmKey = std::array<std::int64_t, 16>;
GemmKey key_of(const GemmArgs& args);

/// Values from row to row of a result, and of parts: rows begin at multiples of 64 bytes and more.
inline std::int64_t stride_of(std::int64_t width) { return (width + 31) / 32 * 32; }

class Gemm {
 public:
  /// For the current device. Error, saying what was looked for and how to install it, if there is no cuBLASLt.
  Gemm();
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  /// Starts a product on the thread's stream. The same arguments give the same bits. Error when cuBLASLt refuses.
  void multiply(const GemmArgs& args);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tq
