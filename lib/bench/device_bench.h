// How fast a GPU's kernels run a case, with rows, codes and norms in its memory: what `run_case` is for the CPU.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lib/bench/bench.h"

namespace tq {

class DeviceBench {
 public:
  virtual ~DeviceBench() = default;

  /// Such as "cuda/NVIDIA H100 80GB HBM3".
  virtual std::string name() const = 0;

  /// Driver and runtime, such as "driver 13.0, runtime 13.0".
  virtual std::string versions() const = 0;

  /// Copies `bytes` bytes from device memory to device memory: reads as many as it writes. Throws Error if the copy differs.
  virtual CopyRate measure_copy(std::uint64_t bytes, int repeat) = 0;

  /// Encode or decode, checked and then timed: the median of `repeat` timings, each of several launches, on buffers that together
  /// are several times the last-level cache and take turns. Checked before: every byte of the output equals the CPU's. After: the
  /// last timed launch wrote the same. A check that fails is `failure` in the result.
  virtual BenchResult run_case(const Case& item, const std::vector<std::uint8_t>& rows, int repeat) = 0;
};

/// Throws Error where there is no GPU, or none of that number.
std::unique_ptr<DeviceBench> make_device_bench(int device);

}  // namespace tq
