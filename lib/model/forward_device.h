// What a forward pass hands to an accelerator: products with weights, whole MLPs, attention. Norms, RoPE, routing and hooks stay
// on the host, and every vector that is passed here lies in host memory. nullptr in the place of a device means the CPU.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "lib/model/activation.h"
#include "lib/model/attention.h"
#include "lib/model/layout.h"
#include "lib/parallel.h"

namespace tq {

/// y[t][o] = bias[o] + sum over i of x[t][i] W[o][i], for t < tokens. Strides are in floats.
struct LinearTask {
  const Matrix* matrix = nullptr;
  const float* x = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t tokens = 0;
  float* y = nullptr;
  std::int64_t y_stride = 0;
};

/// y = down(h) of `tokens` rows of x, both contiguous; h = act(gate(x)) * up(x), act(up(x)) without a gate, and of a fused matrix
/// activate_clamped() of its outputs in turns.
struct MlpTask {
  const MlpLayout* mlp = nullptr;
  std::int64_t tokens = 0;
  const float* x = nullptr;
  float* y = nullptr;
};

/// What stands between the products of an MLP.
struct MlpRule {
  Activation activation = Activation::kSilu;
  float limit = 0, alpha = 0;  ///< of activate_clamped()
};

/// What every call gets: whose weights, threads for reading and copying, and who is told of stored bytes.
struct ForwardCall {
  const WeightReader* reader = nullptr;
  int threads = 1;
  Progress progress;
};

class ForwardDevice {
 public:
  virtual ~ForwardDevice() = default;

  /// Such as "cuda/NVIDIA H100 80GB HBM3".
  virtual std::string name() const = 0;

  /// As run_linear() (lib/model/linear.h). Error: those of reading the weights, and the device's own.
  virtual void run_linear(const ForwardCall& call, std::span<const LinearTask> tasks) = 0;

  /// MLPs side by side.
  virtual void run_mlps(const ForwardCall& call, const MlpRule& rule, std::span<const MlpTask> tasks) = 0;

  /// As attend() (lib/model/attention.h); out has its shape.
  virtual void attend(const AttentionTask& task, int threads, std::span<float> out) = 0;
};

}  // namespace tq
