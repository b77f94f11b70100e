// The forward pass and the attention statistics of a CUDA device. In a build without CUDA both functions exist and say so.
#pragma once

#include <cstdint>
#include <memory>

#include "lib/measure/attention_stats.h"
#include "lib/model/forward_device.h"

namespace tq {

/// Where the time of a forward pass went, by the host's clock: the first three are parts of the others. The device works beside them.
struct ForwardSeconds {
  double reading = 0;      ///< weights from files into pinned memory
  double uploading = 0;    ///< activations, and waiting for buffers
  double downloading = 0;  ///< results, and waiting for the device to finish them
  double linear = 0, mlps = 0, attention = 0;  ///< the calls as a whole
  std::uint64_t read_bytes = 0;                ///< of weights, from files
};

class CudaForwardDevice : public ForwardDevice {
 public:
  virtual ForwardSeconds spent() const = 0;  ///< so far
};

/// Products with weights, MLPs and attention on CUDA device 0, 1, ...: BF16 parts whose products are summed in float32, so that a
/// result is as near as the CPU's (docs/kernels.md). Weights stay on the device while three quarters of its memory last. Calls are
/// serialized by a mutex. Host memory: 260 MB, page-locked.
/// Error: as make_cuda_backend() (kernels/gpu_backend.h), and where cuBLASLt cannot be opened.
std::unique_ptr<CudaForwardDevice> make_cuda_forward(int device);

/// measure_attention() on that device: the same logits in float32, statistics in double. Errors likewise.
MeasureAttention make_cuda_attention_meter(int device);

}  // namespace tq
