// Device memory that is owned, with or without a twin on the host, and the tables of a rotation in it. For host code.
#pragma once

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "kernels/cuda_check.h"
#include "lib/math/row.h"
#include "lib/rotation.h"

namespace tq {

/// Device memory that grows on demand and is freed with the backend.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer() { cudaFree(data_); }

  /// Room for `bytes`; what was in the buffer is lost if it grows.
  void reserve(std::int64_t bytes) {
    if (bytes <= size_) return;
    const cudaError_t freed = cudaFree(data_);
    data_ = nullptr;
    size_ = 0;
    check_cuda(freed, "freeing device memory");
    check_cuda(cudaMalloc(&data_, static_cast<std::size_t>(bytes)),
               fmt::format("allocating {} bytes of device memory", bytes).c_str());
    size_ = bytes;
  }

  /// Reserves and fills.
  void upload(const void* from, std::int64_t bytes, const char* doing) {
    reserve(bytes);
    check_cuda(cudaMemcpy(data_, from, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice), doing);
  }

  /// Waits for the kernels that were started, whose errors surface here.
  void download(void* to, std::int64_t bytes, const char* doing) const {
    check_cuda(cudaMemcpy(to, data_, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost), doing);
  }

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  std::int64_t size_ = 0;
};

/// Page-locked host memory, which the device's copy engines reach while the processor does something else.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;
  ~PinnedBuffer() { cudaFreeHost(data_); }

  /// Room for `bytes`; what was in the buffer is lost if it grows.
  void reserve(std::int64_t bytes) {
    if (bytes <= size_) return;
    const cudaError_t freed = cudaFreeHost(data_);
    data_ = nullptr;
    size_ = 0;
    check_cuda(freed, "freeing page-locked memory");
    check_cuda(cudaHostAlloc(&data_, static_cast<std::size_t>(bytes), cudaHostAllocDefault),
               fmt::format("allocating {} bytes of page-locked memory", bytes).c_str());
    size_ = bytes;
  }

  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
  std::int64_t size_ = 0;
};

/// Device memory with a page-locked twin on the host, in a few sections that travel together: one copy costs about as long as many
/// thousand bytes of another. Copies run in the order of the thread's stream, and the thread goes on.
class StagedBuffer {
 public:
  /// Room for sections of these bytes; what was in the buffer is lost. Pointers hold until the next call.
  void lay_out(std::initializer_list<std::int64_t> sections) {
    constexpr std::int64_t kAlignment = 256;
    starts_.assign(1, 0);
    for (const std::int64_t bytes : sections) starts_.push_back(starts_.back() + (bytes + kAlignment - 1) / kAlignment * kAlignment);
    device_.reserve(starts_.back());
    host_.reserve(starts_.back());
  }
  /// Copies to the host's twin of a section.
  void fill(std::size_t section, const void* from, std::int64_t bytes) {
    std::memcpy(host_at(section), from, static_cast<std::size_t>(bytes));
  }
  /// Copies from it.
  void take(std::size_t section, void* to, std::int64_t bytes) const {
    std::memcpy(to, host_at(section), static_cast<std::size_t>(bytes));
  }
  /// All sections to the device.
  void start_upload(const char* doing) {
    check_cuda(cudaMemcpyAsync(device_.as<void>(), host_at(0), static_cast<std::size_t>(starts_.back()), cudaMemcpyHostToDevice),
               doing);
  }
  /// The sections from `first` on to the host.
  void start_download(const char* doing, std::size_t first = 0) {
    check_cuda(cudaMemcpyAsync(host_at(first), at<std::byte>(first), static_cast<std::size_t>(starts_.back() - starts_[first]),
                               cudaMemcpyDeviceToHost),
               doing);
  }

  template <class T>
  T* at(std::size_t section) const {
    return reinterpret_cast<T*>(device_.as<std::byte>() + starts_[section]);
  }

 private:
  std::byte* host_at(std::size_t section) const { return static_cast<std::byte*>(host_.data()) + starts_[section]; }

  DeviceBuffer device_;
  PinnedBuffer host_;
  std::vector<std::int64_t> starts_ = {0};
};

/// A table on the device, copied only when it is another one than before.
class DeviceTable {
 public:
  /// `values` floats, or words as large. Valid until the next call.
  template <class T>
  const T* upload(const T* from, std::int64_t values, const char* doing) {
    static_assert(sizeof(T) == sizeof(std::uint32_t));
    const auto* words = reinterpret_cast<const std::uint32_t*>(from);
    if (!std::equal(words, words + values, copied_.begin(), copied_.end())) {
      copied_.clear();  // in case of an error
      device_.upload(from, values * static_cast<std::int64_t>(sizeof(T)), doing);
      copied_.assign(words, words + values);
    }
    return device_.as<T>();
  }

 private:
  DeviceBuffer device_;
  std::vector<std::uint32_t> copied_;
};

/// The signs and the matrix of a rotation on the current device.
class DeviceRotation {
 public:
  /// Copies what the rotation's view points to, and returns the same view with device pointers, valid until the next call.
  math::RotationView upload(const Rotation& rotation) {
    math::RotationView view = rotation.view();
    const std::int64_t order = rotation.matrix_order();
    view.signs1 = signs1_.upload(view.signs1, view.dim, "copying the signs of the rotation");
    view.signs2 = signs2_.upload(view.signs2, view.dim, "copying the signs of the rotation");
    if (order > 0) view.matrix = matrix_.upload(view.matrix, order * order, "copying the rotation matrix");
    return view;
  }

 private:
  DeviceTable signs1_, signs2_, matrix_;
};

}  // namespace tq
