// What asynchronous copies need, owned: streams, events, pinned memory. For host code.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda_check.h"

namespace tq {

/// A stream that the default stream does not wait for.
class DeviceStream {
 public:
  DeviceStream() { check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream"); }
  DeviceStream(const DeviceStream&) = delete;
  DeviceStream& operator=(const DeviceStream&) = delete;
  ~DeviceStream() { cudaStreamDestroy(stream_); }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// A mark in a stream. One that was never recorded counts as reached.
class DeviceEvent {
 public:
  DeviceEvent() { check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "making an event"); }
  DeviceEvent(const DeviceEvent&) = delete;
  DeviceEvent& operator=(const DeviceEvent&) = delete;
  ~DeviceEvent() { cudaEventDestroy(event_); }
  void record(cudaStream_t stream) { check_cuda(cudaEventRecord(event_, stream), "marking a place in a stream"); }
  /// The host waits; errors of what came before surface here.
  void wait() const { check_cuda(cudaEventSynchronize(event_), "waiting for the device"); }
  /// The stream waits.
  void hold(cudaStream_t stream) const { check_cuda(cudaStreamWaitEvent(stream, event_, 0), "ordering two streams"); }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Host memory that the device reads and writes by itself.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;
  ~PinnedBuffer() { cudaFreeHost(data_); }

  /// Room for `bytes`; what was in it is lost if it grows.
  void reserve(std::int64_t bytes) {
    if (bytes <= size_) return;
    const cudaError_t freed = cudaFreeHost(data_);
    data_ = nullptr;
    size_ = 0;
    check_cuda(freed, "freeing pinned memory");
    check_cuda(cudaHostAlloc(&data_, static_cast<std::size_t>(bytes), cudaHostAllocDefault), "allocating pinned memory");
    size_ = bytes;
  }

  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* data_ = nullptr;
  std::int64_t size_ = 0;
};

}  // namespace tq
