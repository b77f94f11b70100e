// What orders asynchronous copies, owned: streams and events. The stream nullptr is the calling thread's own. For host code.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda_check.h"

namespace tq {

/// A stream that no other waits for.
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

/// A mark in the calling thread's stream whose time is known.
class TimedEvent {
 public:
  TimedEvent() { check_cuda(cudaEventCreate(&event_), "making an event"); }
  TimedEvent(const TimedEvent&) = delete;
  TimedEvent& operator=(const TimedEvent&) = delete;
  ~TimedEvent() { cudaEventDestroy(event_); }
  void record() { check_cuda(cudaEventRecord(event_), "recording an event"); }
  /// The host waits; errors of what came before surface here.
  void wait() const { check_cuda(cudaEventSynchronize(event_), "waiting for the device"); }
  /// Both have passed.
  double seconds_since(const TimedEvent& start) const {
    float ms = 0;
    check_cuda(cudaEventElapsedTime(&ms, start.event_, event_), "reading the time");
    return 1e-3 * static_cast<double>(ms);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace tq
