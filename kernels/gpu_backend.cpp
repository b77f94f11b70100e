// The CUDA backend: tables and rows go to the device, the launchers of the .cu files run, results come back. A bounded number of
// rows at a time, one step after the other; threads that call at the same time have lanes of their own, so that the copies of one
// run beside the kernels and copies of others. No arithmetic here.
#include "kernels/gpu_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <mutex>

#include "kernels/cuda_check.h"
#include "kernels/gpu_memory.h"
#include "kernels/gpu_stream.h"
#include "kernels/gpu_target.h"
#include "lib/error.h"
#include "lib/math/row.h"

namespace tq {
namespace {

/// Bytes of rows that go to the device at once.
constexpr std::int64_t kChunkBytes = std::int64_t{4} << 20;

constexpr std::int64_t kNone = -1;
constexpr std::int64_t kFloatBytes = sizeof(float);
constexpr std::int64_t kFlagBytes = sizeof(unsigned long long);

std::atomic<int> most_blocks{0};  ///< limit_cuda_blocks()

/// What one call works with: a lane's buffers serve one thread at a time, and its copies and kernels run in that thread's stream.
struct Lane {
  DeviceRotation rotation;
  DeviceTable matrix;
  StagedBuffer in, out;
  TimedEvent start, uploaded, computed, downloaded;

  Lane() = default;
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;
  ~Lane() { cudaStreamSynchronize(cudaStreamPerThread); }  // after an error copies may still be under way
};

class CudaBackend final : public Backend {
 public:
  CudaBackend(int device, std::string name) : device_(device), name_(std::move(name)) {}

  std::string name() const override { return name_; }

  std::int64_t encode(const Codec& codec, DType dtype, const void* rows, std::int64_t count, std::uint8_t* codes,
                      float* norms) const override {
    const Scheme& scheme = codec.scheme();
    const math::NormRule rule{scheme.norm, scheme.norm_dtype == DType::kF16, codec.divides_first()};
    const std::int64_t code_bytes = scheme.code_bytes();
    const std::int64_t row_bytes = bytes_of_row(scheme.dim, dtype);
    return each_chunk(count, row_bytes, "encoding", [&](Lane& lane, std::int64_t start, std::int64_t here) {
      const math::RotationView rotation = lane.rotation.upload(codec.rotation());
      lane.in.lay_out({here * row_bytes});
      lane.out.lay_out({kFlagBytes, here * code_bytes, here * kFloatBytes});
      lane.in.fill(0, static_cast<const std::uint8_t*>(rows) + start * row_bytes, here * row_bytes);
      clear_flag(lane);
      send(lane);
      const EncodeArgs args{rotation, &codec.codebook(), rule, dtype, lane.in.at<std::uint8_t>(0), here,
                            lane.out.at<std::uint8_t>(1), lane.out.at<float>(2)};
      auto* refused = lane.out.at<unsigned long long>(0);
      if (codec.effort() == 0) {
        cuda::encode_rows(args, refused);
      } else {
        cuda::search_rows(args, math::make_scale_search(codec.codebook(), codec.effort()), refused);
      }
      fetch(lane, lane.out);
    }, [&](const Lane& lane, std::int64_t start, std::int64_t here) {
      lane.out.take(1, codes + start * code_bytes, here * code_bytes);
      lane.out.take(2, norms + start, here * kFloatBytes);
      return read_flag(lane);
    });
  }

  void decode(const Codec& codec, const std::uint8_t* codes, const float* norms, std::int64_t count, DType dtype,
              void* rows) const override {
    const std::int64_t code_bytes = codec.scheme().code_bytes();
    const std::int64_t row_bytes = bytes_of_row(codec.scheme().dim, dtype);
    each_chunk(count, row_bytes, "decoding", [&](Lane& lane, std::int64_t start, std::int64_t here) {
      const math::RotationView rotation = lane.rotation.upload(codec.rotation());
      lane.in.lay_out({here * code_bytes, here * kFloatBytes});
      lane.out.lay_out({here * row_bytes});
      lane.in.fill(0, codes + start * code_bytes, here * code_bytes);
      lane.in.fill(1, norms + start, here * kFloatBytes);
      send(lane);
      cuda::decode_rows({rotation, &codec.codebook(), dtype, lane.in.at<std::uint8_t>(0), lane.in.at<float>(1), here,
                         lane.out.at<std::uint8_t>(0)});
      fetch(lane, lane.out);
    }, [&](const Lane& lane, std::int64_t start, std::int64_t here) {
      lane.out.take(0, static_cast<std::uint8_t*>(rows) + start * row_bytes, here * row_bytes);
      return kNone;
    });
  }

  std::int64_t sketch(const Codec& codec, DType dtype, const void* rows, const float* x_hat, std::int64_t count,
                      std::uint8_t* signs, float* norms) const override {
    const int dim = codec.scheme().dim;
    const bool f16_norms = codec.scheme().norm_dtype == DType::kF16;
    const std::int64_t sign_bytes = math::row_bytes(dim, 1);
    const std::int64_t row_bytes = bytes_of_row(dim, dtype);
    return each_chunk(count, dim * kFloatBytes, "sketching residuals", [&](Lane& lane, std::int64_t start, std::int64_t here) {
      const float* matrix = upload_sketch_matrix(codec, lane);
      lane.in.lay_out({here * row_bytes, here * dim * kFloatBytes});
      lane.out.lay_out({kFlagBytes, here * sign_bytes, here * kFloatBytes});
      lane.in.fill(0, static_cast<const std::uint8_t*>(rows) + start * row_bytes, here * row_bytes);
      lane.in.fill(1, x_hat + start * dim, here * dim * kFloatBytes);
      clear_flag(lane);
      send(lane);
      cuda::sketch_rows({matrix, dim, f16_norms, dtype, lane.in.at<std::uint8_t>(0), lane.in.at<float>(1), here,
                         lane.out.at<std::uint8_t>(1), lane.out.at<float>(2)},
                        lane.out.at<unsigned long long>(0));
      fetch(lane, lane.out);
    }, [&](const Lane& lane, std::int64_t start, std::int64_t here) {
      lane.out.take(1, signs + start * sign_bytes, here * sign_bytes);
      lane.out.take(2, norms + start, here * kFloatBytes);
      return read_flag(lane);
    });
  }

  void add_sketches(const Codec& codec, const std::uint8_t* signs, const float* norms, std::int64_t count,
                    float* x_hat) const override {
    const int dim = codec.scheme().dim;
    const std::int64_t sign_bytes = math::row_bytes(dim, 1);
    constexpr std::size_t kRows = 2;
    each_chunk(count, dim * kFloatBytes, "adding sketches", [&](Lane& lane, std::int64_t start, std::int64_t here) {
      const float* matrix = upload_sketch_matrix(codec, lane);
      lane.in.lay_out({here * sign_bytes, here * kFloatBytes, here * dim * kFloatBytes});
      lane.in.fill(0, signs + start * sign_bytes, here * sign_bytes);
      lane.in.fill(1, norms + start, here * kFloatBytes);
      lane.in.fill(kRows, x_hat + start * dim, here * dim * kFloatBytes);
      send(lane);
      cuda::add_sketches({matrix, dim, false, DType::kF32, nullptr, lane.in.at<float>(kRows), here,
                          lane.in.at<std::uint8_t>(0), lane.in.at<float>(1)});
      fetch(lane, lane.in, kRows);
    }, [&](const Lane& lane, std::int64_t start, std::int64_t here) {
      lane.in.take(kRows, x_hat + start * dim, here * dim * kFloatBytes);
      return kNone;
    });
  }

  void compare(int dim, DType dtype, const void* x, DType hat_dtype, const void* x_hat, std::int64_t count,
               RowSums* sums) const override {
    constexpr std::int64_t kSumsBytes = sizeof(RowSums);
    const std::int64_t x_bytes = bytes_of_row(dim, dtype);
    const std::int64_t hat_bytes = bytes_of_row(dim, hat_dtype);
    each_chunk(count, dim * kFloatBytes, "comparing", [&](Lane& lane, std::int64_t start, std::int64_t here) {
      lane.in.lay_out({here * x_bytes, here * hat_bytes});
      lane.out.lay_out({here * kSumsBytes});
      lane.in.fill(0, static_cast<const std::uint8_t*>(x) + start * x_bytes, here * x_bytes);
      lane.in.fill(1, static_cast<const std::uint8_t*>(x_hat) + start * hat_bytes, here * hat_bytes);
      send(lane);
      cuda::compare_rows({dim, dtype, lane.in.at<std::uint8_t>(0), hat_dtype, lane.in.at<std::uint8_t>(1), here,
                          lane.out.at<RowSums>(0)});
      fetch(lane, lane.out);
    }, [&](const Lane& lane, std::int64_t start, std::int64_t here) {
      lane.out.take(0, sums + start, here * kSumsBytes);
      return kNone;
    });
  }

  DeviceSeconds device_seconds() const override {
    const std::lock_guard lock(mutex_);
    return spent_;
  }

 private:
  static std::int64_t bytes_of_row(int dim, DType dtype) { return dim * static_cast<std::int64_t>(size_of(dtype)); }

  static const float* upload_sketch_matrix(const Codec& codec, Lane& lane) {
    const std::vector<float>& s = codec.sketch_matrix();
    return lane.matrix.upload(s.data(), std::ssize(s), "copying the sketch matrix");
  }

  // The first section of a kernel's results: the first row that it refused, or all ones.
  static void clear_flag(Lane& lane) {
    check_cuda(cudaMemsetAsync(lane.out.at<std::byte>(0), 0xff, kFlagBytes), "clearing the refused row");
  }
  static std::int64_t read_flag(const Lane& lane) {
    unsigned long long row = 0;
    lane.out.take(0, &row, sizeof(row));
    return row == ~0ULL ? kNone : static_cast<std::int64_t>(row);
  }

  static void send(Lane& lane) {
    lane.start.record();
    lane.in.start_upload("copying to the device");
    lane.uploaded.record();
  }
  static void fetch(Lane& lane, StagedBuffer& from, std::size_t first_section = 0) {
    lane.computed.record();
    from.start_download("copying from the device", first_section);
    lane.downloaded.record();
  }

  /// Calls run(lane, first row, rows), which starts a chunk's work from send() to fetch(), waits for it, and calls
  /// take(lane, first row, rows), which returns the row that was refused, or kNone; until all rows are done or one is refused.
  template <class Run, class Take>
  std::int64_t each_chunk(std::int64_t count, std::int64_t row_bytes, const char* doing, Run&& run, Take&& take) const {
    check_cuda(cudaSetDevice(device_), "choosing the device");
    std::unique_ptr<Lane> lane = borrow_lane();
    DeviceSeconds spent;
    const std::int64_t chunk = std::max<std::int64_t>(1, kChunkBytes / row_bytes);
    std::int64_t refused = kNone;
    for (std::int64_t start = 0; start < count && refused == kNone; start += chunk) {
      const std::int64_t here = std::min(chunk, count - start);
      run(*lane, start, here);
      check_cuda(cudaStreamSynchronize(cudaStreamPerThread), doing);
      spent.upload += lane->uploaded.seconds_since(lane->start);
      spent.kernels += lane->computed.seconds_since(lane->uploaded);
      spent.download += lane->downloaded.seconds_since(lane->computed);
      const std::int64_t row = take(*lane, start, here);
      if (row != kNone) refused = start + row;
    }
    give_lane_back(std::move(lane), spent);
    return refused;
  }

  std::unique_ptr<Lane> borrow_lane() const {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return std::make_unique<Lane>();
    std::unique_ptr<Lane> lane = std::move(idle_.back());
    idle_.pop_back();
    return lane;
  }

  void give_lane_back(std::unique_ptr<Lane> lane, const DeviceSeconds& spent) const {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(lane));
    spent_.upload += spent.upload;
    spent_.kernels += spent.kernels;
    spent_.download += spent.download;
  }

  int device_;
  std::string name_;
  mutable std::mutex mutex_;  ///< guards what follows
  mutable std::vector<std::unique_ptr<Lane>> idle_;
  mutable DeviceSeconds spent_;
};

}  // namespace

std::string describe_missing_cuda() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return "";
  cudaGetLastError();
  if (status == cudaSuccess || status == cudaErrorNoDevice) return "the CUDA driver sees no device; --device cpu needs none";
  int runtime = 0;
  cudaRuntimeGetVersion(&runtime);
  return fmt::format("the NVIDIA driver (libcuda.so.1) is missing or older than CUDA {}.{} wants ({}); --device cpu needs none",
                     runtime / 1000, runtime % 1000 / 10, cudaGetErrorString(status));
}

void limit_cuda_blocks(int most) { most_blocks = most; }

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
  const bool sylvester = rotation.m == 1 && (rotation.dim == 64 || rotation.dim == 128 || rotation.dim == 256);
  return rotation.mixing == math::Mixing::kHadamard && (sylvester || (rotation.m == 12 && rotation.dim == 96)) && bits >= 2 &&
         bits <= 4 && aligned(rows) && aligned(codes);
}

namespace {

/// Lets blocks of a kernel have that much dynamic shared memory. What a kernel may have is one number for all threads of the process,
/// and one kernel serves types of 2 and 4 bytes: it must never become less while another thread is about to start it.
void grant_shared_memory(const void* kernel, int bytes) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  cudaFuncAttributes now;
  check_cuda(cudaFuncGetAttributes(&now, kernel), "asking for shared memory");
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, std::max(now.maxDynamicSharedSizeBytes, bytes)),
             "asking for shared memory");
}

}  // namespace

int resident_blocks(const void* kernel, int threads, int shared_bytes) {
  int device = 0, processors = 0, blocks = 0;
  check_cuda(cudaGetDevice(&device), "asking for the device");
  check_cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "counting multiprocessors");
  grant_shared_memory(kernel, shared_bytes);
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads,
                                                           static_cast<std::size_t>(shared_bytes)),
             "asking how many blocks fit");
  const int all = std::max(1, processors * blocks), most = most_blocks;
  return most > 0 ? std::min(all, most) : all;
}

}  // namespace cuda
}  // namespace tq
