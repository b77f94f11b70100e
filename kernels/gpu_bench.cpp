// Times the kernels of the .cu files on device memory.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/gpu_backend.h"
#include "kernels/gpu_memory.h"
#include "kernels/gpu_stream.h"
#include "kernels/gpu_target.h"
#include "lib/bench/device_bench.h"
#include "lib/error.h"
#include "lib/parallel.h"

namespace tq {
namespace {

constexpr std::uint64_t kColdBytes = std::uint64_t{256} << 20;  // several times the last-level cache of any GPU to date
constexpr double kBatchUs = 1000;                               // launches that are timed together take about this long

/// Microseconds a launch: batches of launches, `launch(i)` with i counting up, after one batch that is not measured.
Timing time_launches(int repeat, const std::function<void(std::uint64_t)>& launch) {
  TimedEvent start, stop;
  std::uint64_t count = 0;
  const auto run_batch = [&](int launches) {
    start.record();
    for (int i = 0; i < launches; ++i) launch(count++);
    stop.record();
    stop.wait();
    return 1e6 * stop.seconds_since(start) / launches;
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
  std::vector<RowSums> sums;
};

Expected run_on_cpu(const Codec& codec, DType dtype, const std::vector<std::uint8_t>& rows, std::int64_t count) {
  constexpr std::int64_t kPieceRows = 4096;
  const auto backend = make_cpu_backend();
  const int dim = codec.scheme().dim;
  const std::int64_t code_bytes = codec.scheme().code_bytes();
  const std::int64_t row_bytes = dim * static_cast<std::int64_t>(size_of(dtype));
  Expected e;
  e.codes.resize(static_cast<std::size_t>(count * code_bytes));
  e.norms.resize(static_cast<std::size_t>(count));
  e.decoded.resize(static_cast<std::size_t>(count * row_bytes));
  e.sums.resize(static_cast<std::size_t>(count));
  parallel_for(default_threads(), (count + kPieceRows - 1) / kPieceRows, [&](std::int64_t piece) {
    const std::int64_t first = piece * kPieceRows;
    const std::int64_t here = std::min(kPieceRows, count - first);
    const std::uint8_t* x = rows.data() + first * row_bytes;
    std::uint8_t* x_hat = e.decoded.data() + first * row_bytes;
    backend->encode(codec, dtype, x, here, e.codes.data() + first * code_bytes, e.norms.data() + first);
    backend->decode(codec, e.codes.data() + first * code_bytes, e.norms.data() + first, here, dtype, x_hat);
    backend->compare(dim, dtype, x, dtype, x_hat, here, e.sums.data() + first);
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

/// One of the buffer sets that take turns: input and output of a launch.
struct BufferSet {
  DeviceBuffer rows, codes, norms, decoded, sums;
};

/// What one case launches, on which buffers, and what must come out.
class CaseRun {
 public:
  CaseRun(const Codec& codec, const Case& item, const std::vector<std::uint8_t>& rows, const math::RotationView& rotation,
          unsigned long long* refused)
      : codec_(codec),
        item_(item),
        rows_(rows),
        rotation_(rotation),
        refused_(refused),
        search_(math::make_scale_search(codec.codebook(), item.effort)),
        count_(static_cast<std::int64_t>(rows.size()) / row_bytes()),
        expected_(run_on_cpu(codec, item.dtype, rows, count_)) {}

  void fill(BufferSet& set) const {
    switch (item_.operation) {
      case Operation::kEncode:
        upload(set.rows, rows_);
        set.codes.reserve(std::ssize(expected_.codes));
        set.norms.reserve(count_ * 4);
        break;
      case Operation::kDecode:
        upload(set.codes, expected_.codes);
        upload(set.norms, expected_.norms);
        set.decoded.reserve(std::ssize(rows_));
        break;
      case Operation::kCompare:
        upload(set.rows, rows_);
        upload(set.decoded, expected_.decoded);
        set.sums.reserve(count_ * static_cast<std::int64_t>(sizeof(RowSums)));
        break;
    }
  }

  void launch(const BufferSet& set) const {
    const Scheme& scheme = codec_.scheme();
    switch (item_.operation) {
      case Operation::kEncode: {
        const EncodeArgs args{rotation_, &codec_.codebook(),
                              {scheme.norm, scheme.norm_dtype == DType::kF16, codec_.divides_first()}, item_.dtype,
                              set.rows.as<std::uint8_t>(), count_, set.codes.as<std::uint8_t>(), set.norms.as<float>()};
        return item_.effort == 0 ? cuda::encode_rows(args, refused_) : cuda::search_rows(args, search_, refused_);
      }
      case Operation::kDecode:
        return cuda::decode_rows({rotation_, &codec_.codebook(), item_.dtype, set.codes.as<std::uint8_t>(), set.norms.as<float>(),
                                  count_, set.decoded.as<std::uint8_t>()});
      case Operation::kCompare:
        return cuda::compare_rows({item_.dim, item_.dtype, set.rows.as<std::uint8_t>(), item_.dtype,
                                   set.decoded.as<std::uint8_t>(), count_, set.sums.as<RowSums>()});
    }
  }

  /// Throws Error if a byte of the output is not the CPU's. Returns its hash.
  std::uint64_t check(const BufferSet& set) const {
    XXH64_state_t state;
    XXH64_reset(&state, 0);
    switch (item_.operation) {
      case Operation::kEncode:
        check_refused();
        compare("the codes", set.codes, expected_.codes, static_cast<std::uint64_t>(codec_.scheme().code_bytes()), state);
        compare("the bits of the norm", set.norms, expected_.norms, 4, state);
        break;
      case Operation::kDecode:
        compare("decoded values", set.decoded, expected_.decoded, static_cast<std::uint64_t>(row_bytes()), state);
        break;
      case Operation::kCompare: compare("sums", set.sums, expected_.sums, sizeof(RowSums), state); break;
    }
    return XXH64_digest(&state);
  }

  /// Of the CPU's reconstruction.
  double relative_mse() const {
    ErrorStats stats;
    stats.add_sums(expected_.sums, item_.dim);
    return stats.relative_mse();
  }

 private:
  std::int64_t row_bytes() const { return item_.dim * static_cast<std::int64_t>(size_of(item_.dtype)); }

  template <class T>
  static void upload(DeviceBuffer& to, const std::vector<T>& from) {
    to.upload(from.data(), std::ssize(from) * static_cast<std::int64_t>(sizeof(T)), "copying to the device");
  }

  template <class T>
  static void compare(const char* what, const DeviceBuffer& got, const std::vector<T>& expected, std::uint64_t row_bytes,
                      XXH64_state_t& hash) {
    std::vector<T> back(expected.size());
    const std::uint64_t bytes = back.size() * sizeof(T);
    got.download(back.data(), static_cast<std::int64_t>(bytes), "copying back what was computed");
    check_same(what, back.data(), expected.data(), bytes, row_bytes);
    XXH64_update(&hash, back.data(), bytes);
  }

  void check_refused() const {
    unsigned long long refused = 0;
    check_cuda(cudaMemcpy(&refused, refused_, sizeof(refused), cudaMemcpyDeviceToHost), "encoding");
    if (refused != ~0ULL) throw Error(fmt::format("row {} of finite values was refused", refused));
  }

  const Codec& codec_;
  const Case& item_;
  const std::vector<std::uint8_t>& rows_;
  math::RotationView rotation_;
  unsigned long long* refused_;
  math::ScaleSearch search_;
  std::int64_t count_;
  Expected expected_;
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
    constexpr unsigned long long kNone = ~0ULL;
    refused_.upload(&kNone, sizeof(kNone), "clearing the refused row");
    const CaseRun run(codec, result.item, rows, rotation_.upload(codec.rotation()), refused_.as<unsigned long long>());
    std::vector<BufferSet> sets(std::max<std::size_t>(1, (kColdBytes + rows.size() - 1) / rows.size()));
    for (BufferSet& set : sets) run.fill(set);
    std::size_t used = 0;
    const auto launch = [&](std::uint64_t number) {
      used = std::max<std::size_t>(used, number % sets.size() + 1);
      run.launch(sets[number % sets.size()]);
    };
    launch(0);
    result.hash = run.check(sets.front());
    result.relative_mse = run.relative_mse();
    const double ratio = result.relative_mse / result.expected_mse;
    if (!(ratio <= 1 + kBenchMseTolerance && ratio >= 1 - (result.item.effort > 0 ? kBenchSearchGain : kBenchMseTolerance))) {
      throw Error(fmt::format("the relative MSE is {:.6g}, and the codebook gives {:.6g}", result.relative_mse,
                              result.expected_mse));
    }
    const Timing timing = time_launches(repeat, launch);
    for (std::size_t i = 0; i < used; ++i) run.check(sets[i]);
    result.timing = timing;
    result.gb_per_s = static_cast<double>(result.bytes) * 1e-3 / timing.median_us;
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
