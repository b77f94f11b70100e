// Where the work runs: what --device names, and the backend that follows.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "lib/backend.h"
#include "lib/measure/attention_stats.h"
#include "lib/model/forward_device.h"

namespace tq {

enum class DeviceKind { kAuto, kCpu, kCuda };

struct DeviceChoice {
  DeviceKind kind = DeviceKind::kAuto;
  int number = 0;  ///< of a CUDA device
};

/// "auto", "cpu", "cuda" (device 0) or "cuda:N". Throws UsageError for anything else.
DeviceChoice parse_device(std::string_view text);

struct Device {
  std::unique_ptr<Backend> backend;
  std::optional<int> cuda;  ///< the number of the CUDA device in use
  std::string note;         ///< why a GPU that is there is not used, for the user to read; else empty
  bool is_asked = false;    ///< the CUDA device was asked for, not found
};

/// kAuto takes CUDA device 0 where there is one that this build has code for, and TQ_CPU names no CPU target, else the CPU; kCpu is
/// make_cpu_backend(), and kCuda make_cuda_backend(), with its Error where there is no such device. No byte that a backend writes
/// depends on the choice.
Device open_device(const DeviceChoice& choice);

/// What runs a model on a device, and measures its attention there: the results are the CPU's but for rounding.
struct ModelDevice {
  std::unique_ptr<ForwardDevice> forward;          ///< nullptr: the CPU
  MeasureAttention attention = measure_attention;
  std::string note;                                ///< as Device::note
};

/// The GPU where `device` is one and cuBLASLt can be opened, else the CPU. Throws Error without cuBLASLt where the GPU was asked for.
ModelDevice open_model_device(const Device& device);

}  // namespace tq
