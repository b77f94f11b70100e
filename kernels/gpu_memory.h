// Device memory that is owned, and the tables of a rotation in it. For host code.
#pragma once

#include <cuda_runtime_api.h>
#include <fmt/format.h>

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

/// The signs and the matrix of a rotation on the current device.
class DeviceRotation {
 public:
  /// Copies what the rotation's view points to, and returns the same view with device pointers, valid until the next call.
  math::RotationView upload(const Rotation& rotation) {
    math::RotationView view = rotation.view();
    constexpr std::int64_t kFloatBytes = sizeof(float);
    const std::int64_t order = rotation.matrix_order();
    signs1_.upload(view.signs1, view.dim * kFloatBytes, "copying the signs of the rotation");
    signs2_.upload(view.signs2, view.dim * kFloatBytes, "copying the signs of the rotation");
    view.signs1 = signs1_.as<std::uint32_t>();
    view.signs2 = signs2_.as<std::uint32_t>();
    if (order > 0) {
      matrix_.upload(view.matrix, order * order * kFloatBytes, "copying the rotation matrix");
      view.matrix = matrix_.as<float>();
    }
    return view;
  }

 private:
  DeviceBuffer signs1_, signs2_, matrix_;
};

}  // namespace tq
