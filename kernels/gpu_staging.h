// Rows of floats between the host's own memory and the device, through two pinned buffers: threads fill or empty one while the
// device works on the other.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/gpu_memory.h"
#include "kernels/gpu_stream.h"

namespace tq {

class Staging {
 public:
  explicit Staging(int threads = 1) : threads_(threads) {}
  void set_threads(int threads) { threads_ = threads; }

  double upload_seconds() const { return upload_seconds_; }      ///< so far
  double download_seconds() const { return download_seconds_; }  ///< with waiting for the device

  /// from [rows][stride], of which `width` floats count -> to [rows][width] on the device. Returns when all has been read; the
  /// thread's stream has it in order.
  void upload(const float* from, std::int64_t stride, std::int64_t rows, std::int64_t width, float* to);

  /// from [rows][from_stride] on the device, as the thread's stream leaves it -> to [rows][to_stride]. Waits.
  void download(const float* from, std::int64_t from_stride, std::int64_t rows, std::int64_t width, float* to, std::int64_t to_stride);

 private:
  static constexpr std::int64_t kBufferBytes = std::int64_t{32} << 20;

  int threads_;
  int next_ = 0;
  double upload_seconds_ = 0, download_seconds_ = 0;
  std::array<PinnedBuffer, 2> buffers_;
  std::array<DeviceEvent, 2> done_;  ///< the device has read, or written, a buffer
};

}  // namespace tq
