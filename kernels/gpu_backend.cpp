// The CUDA backend: tables and rows go to the device, the launchers of the .cu files run, results come back.
// One step after the other, a bounded number of rows at a time; no arithmetic here.
#include "kernels/gpu_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "kernels/cuda_check.h"
#include "kernels/gpu_memory.h"
#include "kernels/gpu_target.h"
#include "lib/error.h"
#include "lib/math/row.h"

namespace tq {
namespace {

/// Bytes of rows that go to the device at once: enough to fill any device.
constexpr std::int64_t kChunkBytes = std::int64_t{64} << 20;

class CudaBackend final : public Backend {
 public:
  CudaBackend(int device, std::string name) : device_(device), name_(std::move(name)) {}

  std::string name() const override { return name_; }

  std::int64_t encode(const Codec& codec, DType dtype, const void* rows, std::int64_t count, std::uint8_t* codes,
                      float* norms) const override {
    const std::lock_guard lock(mutex_);
    const math::RotationView rotation = upload_rotation(codec);
    const Scheme& scheme = codec.scheme();
    const std::int64_t row_bytes = bytes_of_row(codec, dtype);
    return each_chunk(count, row_bytes, [&](std::int64_t start, std::int64_t here) {
      rows_.upload(static_cast<const std::uint8_t*>(rows) + start * row_bytes, here * row_bytes, "copying rows");
      codes_.reserve(here * scheme.code_bytes());
      norms_.reserve(here * kFloatBytes);
      forget_refused();
      const EncodeArgs args{rotation, &codec.codebook(),
                            {scheme.norm, scheme.norm_dtype == DType::kF16, codec.divides_first()}, dtype,
                            rows_.as<std::uint8_t>(), here, codes_.as<std::uint8_t>(), norms_.as<float>()};
      if (codec.effort() == 0) {
        cuda::encode_rows(args, refused_.as<unsigned long long>());
      } else {
        cuda::search_rows(args, math::make_scale_search(codec.codebook(), codec.effort()), refused_.as<unsigned long long>());
      }
      const std::int64_t refused = wait_for_refused("encoding");
      codes_.download(codes + start * scheme.code_bytes(), here * scheme.code_bytes(), "copying codes back");
      norms_.download(norms + start, here * kFloatBytes, "copying norms back");
      return refused;
    });
  }

  void decode(const Codec& codec, const std::uint8_t* codes, const float* norms, std::int64_t count, DType dtype,
              void* rows) const override {
    const std::lock_guard lock(mutex_);
    const math::RotationView rotation = upload_rotation(codec);
    const std::int64_t code_bytes = codec.scheme().code_bytes();
    const std::int64_t row_bytes = bytes_of_row(codec, dtype);
    each_chunk(count, row_bytes, [&](std::int64_t start, std::int64_t here) {
      codes_.upload(codes + start * code_bytes, here * code_bytes, "copying codes");
      norms_.upload(norms + start, here * kFloatBytes, "copying norms");
      rows_.reserve(here * row_bytes);
      cuda::decode_rows({rotation, &codec.codebook(), dtype, codes_.as<std::uint8_t>(), norms_.as<float>(), here,
                         rows_.as<std::uint8_t>()});
      rows_.download(static_cast<std::uint8_t*>(rows) + start * row_bytes, here * row_bytes,
                     "decoding, and copying rows back");
      return kNone;
    });
  }

  std::int64_t sketch(const Codec& codec, DType dtype, const void* rows, const float* x_hat, std::int64_t count,
                      std::uint8_t* signs, float* norms) const override {
    const std::lock_guard lock(mutex_);
    upload_sketch_matrix(codec);
    const int dim = codec.scheme().dim;
    const bool f16_norms = codec.scheme().norm_dtype == DType::kF16;
    const std::int64_t sign_bytes = math::row_bytes(dim, 1);
    const std::int64_t row_bytes = bytes_of_row(codec, dtype);
    return each_chunk(count, dim * kFloatBytes, [&](std::int64_t start, std::int64_t here) {
      rows_.upload(static_cast<const std::uint8_t*>(rows) + start * row_bytes, here * row_bytes, "copying rows");
      x_hat_.upload(x_hat + start * dim, here * dim * kFloatBytes, "copying reconstructed rows");
      codes_.reserve(here * sign_bytes);
      norms_.reserve(here * kFloatBytes);
      forget_refused();
      cuda::sketch_rows({matrix_.as<float>(), dim, f16_norms, dtype, rows_.as<std::uint8_t>(), x_hat_.as<float>(), here,
                         codes_.as<std::uint8_t>(), norms_.as<float>()},
                        refused_.as<unsigned long long>());
      const std::int64_t refused = wait_for_refused("sketching residuals");
      codes_.download(signs + start * sign_bytes, here * sign_bytes, "copying signs back");
      norms_.download(norms + start, here * kFloatBytes, "copying norms back");
      return refused;
    });
  }

  void add_sketches(const Codec& codec, const std::uint8_t* signs, const float* norms, std::int64_t count,
                    float* x_hat) const override {
    const std::lock_guard lock(mutex_);
    upload_sketch_matrix(codec);
    const int dim = codec.scheme().dim;
    const std::int64_t sign_bytes = math::row_bytes(dim, 1);
    each_chunk(count, dim * kFloatBytes, [&](std::int64_t start, std::int64_t here) {
      codes_.upload(signs + start * sign_bytes, here * sign_bytes, "copying signs");
      norms_.upload(norms + start, here * kFloatBytes, "copying norms");
      x_hat_.upload(x_hat + start * dim, here * dim * kFloatBytes, "copying reconstructed rows");
      cuda::add_sketches({matrix_.as<float>(), dim, false, DType::kF32, nullptr, x_hat_.as<float>(), here,
                          codes_.as<std::uint8_t>(), norms_.as<float>()});
      x_hat_.download(x_hat + start * dim, here * dim * kFloatBytes, "adding sketches, and copying rows back");
      return kNone;
    });
  }

  /// On the host, where both sides lie: moving them would take longer than the sums.
  void compare(int dim, DType dtype, const void* x, DType hat_dtype, const void* x_hat, std::int64_t count,
               RowSums* sums) const override {
    cpu_->compare(dim, dtype, x, hat_dtype, x_hat, count, sums);
  }

 private:
  static constexpr std::int64_t kNone = -1;
  static constexpr std::int64_t kFloatBytes = sizeof(float);

  static std::int64_t bytes_of_row(const Codec& codec, DType dtype) {
    return codec.scheme().dim * static_cast<std::int64_t>(size_of(dtype));
  }

  /// Calls f(first row, rows) until all rows are done or one is refused; f returns a refused row of its own or kNone.
  template <class F>
  std::int64_t each_chunk(std::int64_t count, std::int64_t row_bytes, F&& f) const {
    const std::int64_t chunk = kChunkBytes / row_bytes;
    for (std::int64_t start = 0; start < count; start += chunk) {
      const std::int64_t refused = f(start, std::min(chunk, count - start));
      if (refused != kNone) return start + refused;
    }
    return kNone;
  }

  math::RotationView upload_rotation(const Codec& codec) const {
    check_cuda(cudaSetDevice(device_), "choosing the device");
    return rotation_.upload(codec.rotation());
  }

  void upload_sketch_matrix(const Codec& codec) const {
    check_cuda(cudaSetDevice(device_), "choosing the device");
    const std::vector<float>& s = codec.sketch_matrix();
    if (s.empty()) throw Error("this scheme has no sketch of the residual");
    matrix_.upload(s.data(), static_cast<std::int64_t>(s.size()) * kFloatBytes, "copying the sketch matrix");
  }

  void forget_refused() const {
    constexpr unsigned long long kHighest = ~0ULL;
    refused_.upload(&kHighest, sizeof(kHighest), "clearing the refused row");
  }

  /// Waits for the kernel; the row that it refused, or kNone.
  std::int64_t wait_for_refused(const char* doing) const {
    unsigned long long refused = 0;
    refused_.download(&refused, sizeof(refused), doing);
    return refused == ~0ULL ? kNone : static_cast<std::int64_t>(refused);
  }

  int device_;
  std::string name_;
  std::unique_ptr<Backend> cpu_ = make_cpu_backend();
  mutable std::mutex mutex_;  ///< guards the buffers, and keeps calls in order
  mutable DeviceRotation rotation_;
  mutable DeviceBuffer matrix_, rows_, x_hat_, codes_, norms_, refused_;
};

}  // namespace

std::string describe_missing_cuda() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return "";
  cudaGetLastError();
  if (status == cudaSuccess || status == cudaErrorNoDevice) return "the CUDA driver sees no device";
  int runtime = 0;
  cudaRuntimeGetVersion(&runtime);
  return fmt::format("no NVIDIA driver for CUDA {}.{} answers ({})", runtime / 1000, runtime % 1000 / 10,
                     cudaGetErrorString(status));
}

std::unique_ptr<Backend> make_cuda_backend(int device) {
  if (const std::string missing = describe_missing_cuda(); !missing.empty()) throw Error("no GPU: " + missing);
  int count = 0;
  check_cuda(cudaGetDeviceCount(&count), "counting devices");
  if (device < 0 || device >= count) {
    throw Error(fmt::format("there is no CUDA device {}: this machine has 0 to {}", device, count - 1));
  }
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, device), "asking for the device's properties");
  check_cuda(cudaSetDevice(device), "choosing the device");
  if (!cuda::has_code_for_device()) {
    throw Error(fmt::format("this build has no code for {} (compute capability {}.{}); build with "
                            "-DTQ_CUDA_ARCHITECTURES={}{}",
                            properties.name, properties.major, properties.minor, properties.major, properties.minor));
  }
  return std::make_unique<CudaBackend>(device, fmt::format("cuda/{}", properties.name));
}

namespace cuda {

void check_launch(const char* kernel, int bits, int dim, DType dtype, std::int64_t count) {
  if (bits < kMinBits || bits > kMaxBits) {
    throw Error(fmt::format("CUDA {}: {} bits, and codes have 1 to 8", kernel, bits));
  }
  if (dim < 1 || dim > math::kMaxDim) {
    throw Error(fmt::format("CUDA {}: rows of {} elements, and 1 to {} are supported", kernel, dim, math::kMaxDim));
  }
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBf16) {
    throw Error(fmt::format("CUDA {}: rows of {}, and F32, F16 and BF16 are supported", kernel, name_of(dtype)));
  }
  if (count < 1 || count > kMaxLaunchRows) {
    throw Error(fmt::format("CUDA {}: {} rows, and a launch takes 1 to {}", kernel, count, kMaxLaunchRows));
  }
}

bool has_tiles(const math::RotationView& rotation, int bits, const void* rows, const void* codes) {
  const auto aligned = [](const void* at) { return reinterpret_cast<std::uintptr_t>(at) % 16 == 0; };
  return rotation.mixing == math::Mixing::kHadamard && rotation.m == 1 &&
         (rotation.dim == 64 || rotation.dim == 128 || rotation.dim == 256) && bits >= 2 && bits <= 4 && aligned(rows) &&
         aligned(codes);
}

int resident_blocks(const void* kernel, int threads, int shared_bytes) {
  int device = 0, processors = 0, blocks = 0;
  check_cuda(cudaGetDevice(&device), "asking for the device");
  check_cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "counting multiprocessors");
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
             "asking for shared memory");
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads,
                                                           static_cast<std::size_t>(shared_bytes)),
             "asking how many blocks fit");
  return std::max(1, processors * blocks);
}

}  // namespace cuda
}  // namespace tq
