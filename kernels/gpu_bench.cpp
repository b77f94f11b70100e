// Times the kernels of the .cu files on device memory.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/gpu_backend.h"
#include "kernels/gpu_memory.h"
#include "kernels/gpu_target.h"
#include "lib/bench/device_bench.h"
#include "lib/error.h"
#include "lib/parallel.h"

namespace tq {
namespace {

constexpr std::uint64_t kColdBytes = std::uint64_t{256} << 20;  // several times the last-level cache of any GPU to date
constexpr double kBatchUs = 1000;                               // launches that are timed together take about this long

class Event {
 public:
  Event() { check_cuda(cudaEventCreate(&event_), "making an event"); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { cudaEventDestroy(event_); }

  void record() { check_cuda(cudaEventRecord(event_), "recording an event"); }
  /// Waits for it, and gives the microseconds since `start`.
  double us_since(const Event& start) {
    check_cuda(cudaEventSynchronize(event_), "waiting for the kernels that are timed");
    float ms = 0;
    check_cuda(cudaEventElapsedTime(&ms, start.event_, event_), "reading the time");
    return 1e3 * static_cast<double>(ms);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Microseconds a launch: batches of launches, `launch(i)` with i counting up, after one batch that is not measured.
Timing time_launches(int repeat, const std::function<void(std::uint64_t)>& launch) {
  Event start, stop;
  std::uint64_t count = 0;
  const auto run_batch = [&](int launches) {
    start.record();
    for (int i = 0; i < launches; ++i) launch(count++);
    stop.record();
    return stop.us_since(start) / launches;
  };
  run_batch(1);
  const int launches = static_cast<int>(std::clamp(std::ceil(kBatchUs / run_batch(1)), 1.0, 1000.0));
  run_batch(launches);
  std::vector<double> times;
  for (int i = 0; i < repeat; ++i) times.push_back(run_batch(launches));
  std::sort(times.begin(), times.end());
  const std::size_t half = times.size() / 2;
  return {times.size() % 2 == 1 ? times[half] : 0.5 * (times[half - 1] + times[half]), times.front()};
}

/// What the CPU makes of the rows, all of them.
struct Expected {
  std::vector<std::uint8_t> codes;
  std::vector<float> norms;
  std::vector<std::uint8_t> decoded;
};

Expected run_on_cpu(const Codec& codec, DType dtype, const std::vector<std::uint8_t>& rows, std::int64_t count) {
  constexpr std::int64_t kPieceRows = 4096;
  const auto backend = make_cpu_backend();
  const std::int64_t code_bytes = codec.scheme().code_bytes();
  const std::int64_t row_bytes = codec.scheme().dim * static_cast<std::int64_t>(size_of(dtype));
  Expected e;
  e.codes.resize(static_cast<std::size_t>(count * code_bytes));
  e.norms.resize(static_cast<std::size_t>(count));
  e.decoded.resize(static_cast<std::size_t>(count * row_bytes));
  parallel_for(default_threads(), (count + kPieceRows - 1) / kPieceRows, [&](std::int64_t piece) {
    const std::int64_t first = piece * kPieceRows;
    const std::int64_t here = std::min(kPieceRows, count - first);
    backend->encode(codec, dtype, rows.data() + first * row_bytes, here, e.codes.data() + first * code_bytes,
                    e.norms.data() + first);
    backend->decode(codec, e.codes.data() + first * code_bytes, e.norms.data() + first, here, dtype,
                    e.decoded.data() + first * row_bytes);
  });
  return e;
}

/// Throws Error that names the first byte that differs.
void check_same(const char* what, const void* ours, const void* expected, std::uint64_t bytes, std::uint64_t row_bytes) {
  if (std::memcmp(ours, expected, bytes) == 0) return;
  const auto* a = static_cast<const std::uint8_t*>(ours);
  const auto* b = static_cast<const std::uint8_t*>(expected);
  const std::uint64_t at = static_cast<std::uint64_t>(std::mismatch(a, a + bytes, b).first - a);
  std::uint64_t different = 0;
  for (std::uint64_t i = 0; i < bytes; ++i) different += a[i] != b[i] ? 1 : 0;
  throw Error(fmt::format("{} of row {} differ from the CPU's: {} of {} bytes, the first at byte {} of the row", what,
                          at / row_bytes, different, bytes, at % row_bytes));
}

/// One of the buffer sets that take turns.
struct BufferSet {
  DeviceBuffer rows, codes, norms;
};

class CudaBench final : public DeviceBench {
 public:
  CudaBench(int device, std::string name) : device_(device), name_(std::move(name)) {}

  std::string name() const override { return name_; }

  std::string versions() const override {
    int driver = 0, runtime = 0;
    check_cuda(cudaDriverGetVersion(&driver), "asking for the driver's version");
    check_cuda(cudaRuntimeGetVersion(&runtime), "asking for the runtime's version");
    return fmt::format("driver {}.{}, runtime {}.{}", driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  }

  CopyRate measure_copy(std::uint64_t bytes, int repeat) override {
    check_cuda(cudaSetDevice(device_), "choosing the device");
    const std::vector<std::uint8_t> from = make_bench_rows(DType::kBf16, 1, static_cast<std::int64_t>((bytes + 1) / 2));
    const auto signed_bytes = static_cast<std::int64_t>(bytes);
    DeviceBuffer source, target;
    source.upload(from.data(), signed_bytes, "copying to the device");
    target.reserve(signed_bytes);
    CopyRate rate;
    rate.bytes = bytes;
    rate.timing = time_launches(repeat, [&](std::uint64_t) {
      check_cuda(cudaMemcpyAsync(target.as<void>(), source.as<void>(), bytes, cudaMemcpyDeviceToDevice), "copying");
    });
    std::vector<std::uint8_t> back(bytes);
    target.download(back.data(), signed_bytes, "copying back");
    if (std::memcmp(back.data(), from.data(), bytes) != 0) throw Error("a copy on the device differs from its original");
    rate.gb_per_s = static_cast<double>(bytes) * 1e-3 / rate.timing.median_us;
    return rate;
  }

  BenchResult run_case(const Case& item, const std::vector<std::uint8_t>& rows, int repeat) override {
    check_cuda(cudaSetDevice(device_), "choosing the device");
    const Codec codec = Codec(scheme_of(item)).with_effort(item.effort);
    const std::int64_t row_bytes = item.dim * static_cast<std::int64_t>(size_of(item.dtype));
    BenchResult result;
    result.item = item;
    result.target = name_;
    result.rows = static_cast<std::int64_t>(rows.size()) / row_bytes;
    result.bytes = rows.size();
    result.moved = moved_bytes(item, result.rows);
    result.expected_mse = expected_relative_mse(codec, item.dtype);
    try {
      run_checked(codec, rows, repeat, result);
    } catch (const Error& error) {
      result.failure = error.what();
    }
    return result;
  }

 private:
  void run_checked(const Codec& codec, const std::vector<std::uint8_t>& rows, int repeat, BenchResult& result) {
    const Case& item = result.item;
    const std::int64_t count = result.rows;
    const Expected expected = run_on_cpu(codec, item.dtype, rows, count);
    const math::RotationView rotation = rotation_.upload(codec.rotation());
    const Scheme& scheme = codec.scheme();
    const math::ScaleSearch search = math::make_scale_search(codec.codebook(), item.effort);
    constexpr unsigned long long kNone = ~0ULL;
    refused_.upload(&kNone, sizeof(kNone), "clearing the refused row");
    std::vector<BufferSet> sets(std::max<std::size_t>(1, (kColdBytes + rows.size() - 1) / rows.size()));
    const bool encodes = item.operation == Operation::kEncode;
    for (BufferSet& set : sets) {
      if (encodes) {
        set.rows.upload(rows.data(), static_cast<std::int64_t>(rows.size()), "copying rows");
        set.codes.reserve(static_cast<std::int64_t>(expected.codes.size()));
        set.norms.reserve(count * 4);
      } else {
        set.rows.reserve(static_cast<std::int64_t>(rows.size()));
        set.codes.upload(expected.codes.data(), static_cast<std::int64_t>(expected.codes.size()), "copying codes");
        set.norms.upload(expected.norms.data(), count * 4, "copying norms");
      }
    }
    std::size_t used = 0;
    const auto launch = [&](std::uint64_t number) {
      const BufferSet& set = sets[number % sets.size()];
      used = std::max<std::size_t>(used, number % sets.size() + 1);
      if (encodes) {
        const EncodeArgs args{rotation, &codec.codebook(),
                              {scheme.norm, scheme.norm_dtype == DType::kF16, codec.divides_first()}, item.dtype,
                              set.rows.as<std::uint8_t>(), count, set.codes.as<std::uint8_t>(), set.norms.as<float>()};
        auto* refused = refused_.as<unsigned long long>();
        if (item.effort == 0) {
          cuda::encode_rows(args, refused);
        } else {
          cuda::search_rows(args, search, refused);
        }
      } else {
        cuda::decode_rows({rotation, &codec.codebook(), item.dtype, set.codes.as<std::uint8_t>(), set.norms.as<float>(),
                           count, set.rows.as<std::uint8_t>()});
      }
    };
    launch(0);
    result.hash = check(codec, sets.front(), expected, count, item);
    ErrorStats stats;
    compare_rows(*make_cpu_backend(), item.dim, item.dtype, rows.data(), item.dtype, expected.decoded.data(), count, stats);
    result.relative_mse = stats.relative_mse();
    const double ratio = result.relative_mse / result.expected_mse;
    if (!(ratio <= 1 + kBenchMseTolerance && ratio >= 1 - (item.effort > 0 ? kBenchSearchGain : kBenchMseTolerance))) {
      throw Error(fmt::format("the relative MSE is {:.6g}, and the codebook gives {:.6g}", result.relative_mse,
                              result.expected_mse));
    }
    const Timing timing = time_launches(repeat, launch);
    for (std::size_t i = 0; i < used; ++i) check(codec, sets[i], expected, count, item);
    result.timing = timing;
    result.gb_per_s = static_cast<double>(result.bytes) * 1e-3 / timing.median_us;
  }

  /// Throws Error if a byte of the output is not the CPU's. Returns its hash.
  std::uint64_t check(const Codec& codec, const BufferSet& set, const Expected& expected, std::int64_t count, const Case& item) {
    XXH64_state_t state;
    XXH64_reset(&state, 0);
    if (item.operation == Operation::kEncode) {
      unsigned long long refused = 0;
      refused_.download(&refused, sizeof(refused), "encoding");
      if (refused != ~0ULL) throw Error(fmt::format("row {} of finite values was refused", refused));
      std::vector<std::uint8_t> codes(expected.codes.size());
      std::vector<float> norms(expected.norms.size());
      set.codes.download(codes.data(), static_cast<std::int64_t>(codes.size()), "copying codes back");
      set.norms.download(norms.data(), count * 4, "copying norms back");
      check_same("the codes", codes.data(), expected.codes.data(), codes.size(),
                 static_cast<std::uint64_t>(codec.scheme().code_bytes()));
      check_same("the bits of the norm", norms.data(), expected.norms.data(), norms.size() * 4, 4);
      XXH64_update(&state, codes.data(), codes.size());
      XXH64_update(&state, norms.data(), norms.size() * 4);
    } else {
      std::vector<std::uint8_t> decoded(expected.decoded.size());
      set.rows.download(decoded.data(), static_cast<std::int64_t>(decoded.size()), "copying rows back");
      check_same("decoded values", decoded.data(), expected.decoded.data(), decoded.size(),
                 static_cast<std::uint64_t>(item.dim) * size_of(item.dtype));
      XXH64_update(&state, decoded.data(), decoded.size());
    }
    return XXH64_digest(&state);
  }

  int device_;
  std::string name_;
  DeviceRotation rotation_;
  DeviceBuffer refused_;
};

}  // namespace

std::unique_ptr<DeviceBench> make_device_bench(int device) {
  return std::make_unique<CudaBench>(device, make_cuda_backend(device)->name());
}

}  // namespace tq
