// The forward pass and the attention statistics of a CUDA device. In a build without CUDA both functions exist and say so.
#pragma once

#include <memory>

#include "lib/measure/attention_stats.h"
#include "lib/model/forward_device.h"

namespace tq {

/// Products with weights, MLPs and attention on CUDA device 0, 1, ...: BF16 parts whose products are summed in float32, so that a
/// result is as near as the CPU's (docs/kernels.md). Weights stay on the device while there is room. Calls are serialized by a mutex.
/// Error: as make_cuda_backend() (kernels/gpu_backend.h), and where cuBLASLt cannot be opened.
std::unique_ptr<ForwardDevice> make_cuda_forward(int device);

/// measure_attention() on that device: the same logits in float32, statistics in double. Errors likewise.
MeasureAttention make_cuda_attention_meter(int device);

}  // namespace tq
