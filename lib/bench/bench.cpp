#include "lib/bench/bench.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <numbers>

#include "lib/convert.h"
#include "lib/error.h"
#include "lib/measure/error_stats.h"
#include "lib/parallel.h"
#include "lib/rotation.h"

namespace tq {
namespace {

constexpr std::uint32_t kRowsSeed = 2504;
constexpr int kPoolValues = 1000003;  // prime
constexpr std::uint64_t kPieceBytes = std::uint64_t{1}
                                      << 16;  // small enough that 100 threads share 64 MB evenly
constexpr std::int64_t kSampleRows = 1024;

template <class T>
std::size_t as_size(T value) {
  return static_cast<std::size_t>(value);
}

/// Runs body once unmeasured and `repeat` times measured.
Timing time_runs(int repeat, const std::function<void()>& body) {
  body();
  std::vector<double> times;
  for (int i = 0; i < repeat; ++i) {
    const auto start = std::chrono::steady_clock::now();
    body();
    times.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
            .count());
  }
  std::sort(times.begin(), times.end());
  const std::size_t half = times.size() / 2;
  const double median = times.size() % 2 == 1 ? times[half] : 0.5 * (times[half - 1] + times[half]);
  return {median, times.front()};
}

double rate_of(std::uint64_t bytes, const Timing& timing) {
  return static_cast<double>(bytes) * 1e-3 / std::max(timing.median_us, 1e-3);
}

/// Relative MSE of rounding a Gaussian row to nearest: an error spread evenly over one unit in the
/// last place, under a mantissa spread log-evenly over [1, 2): (ulp^2 / 12) / (3 / (2 ln 2)). It is
/// 5 % of D at 8 bits and BF16.
double rounding_mse(DType dtype) {
  const double ulp = dtype == DType::kBf16 ? 0x1p-7 : dtype == DType::kF16 ? 0x1p-10 : 0x1p-23;
  return ulp * ulp / 12 * (2 * std::numbers::ln2 / 3);
}

Codec make_codec(const Case& item) { return Codec(scheme_of(item)).with_effort(item.effort); }

/// One case's input and output, and the operations on them, in pieces of whole rows.
class Workbench {
 public:
  Workbench(const Case& item, const std::vector<std::uint8_t>& rows, const Backend& backend,
            int threads)
      : item_(item),
        backend_(backend),
        threads_(threads),
        codec_(make_codec(item)),
        rows_(rows),
        row_bytes_(as_size(item.dim) * size_of(item.dtype)),
        code_bytes_(as_size(codec_.scheme().code_bytes())),
        count_(static_cast<std::int64_t>(rows.size() / row_bytes_)),
        piece_rows_(static_cast<std::int64_t>(
            std::max<std::uint64_t>(kPieceBytes / row_bytes_ / 16 * 16, 16))),
        codes_(as_size(count_) * code_bytes_),
        norms_(as_size(count_)),
        decoded_(rows.size()) {}

  std::int64_t count() const { return count_; }
  const Codec& codec() const { return codec_; }

  /// The first row that was refused, or -1.
  std::int64_t encode() {
    std::vector<std::int64_t> refused(as_size(pieces()), -1);
    parallel_for(threads_, pieces(), [&](std::int64_t piece) {
      const std::int64_t first = piece * piece_rows_;
      const std::int64_t bad =
          backend_.encode(codec_, item_.dtype, row(rows_, first), rows_of(piece),
                          codes_.data() + as_size(first) * code_bytes_, norms_.data() + first);
      if (bad >= 0) refused[as_size(piece)] = first + bad;
    });
    const auto found =
        std::find_if(refused.begin(), refused.end(), [](std::int64_t r) { return r >= 0; });
    return found == refused.end() ? -1 : *found;
  }

  void decode() {
    parallel_for(threads_, pieces(), [&](std::int64_t piece) {
      const std::int64_t first = piece * piece_rows_;
      backend_.decode(codec_, codes_.data() + as_size(first) * code_bytes_, norms_.data() + first,
                      rows_of(piece), item_.dtype, decoded_.data() + as_size(first) * row_bytes_);
    });
  }

  ErrorStats compare() const {
    std::vector<ErrorStats> parts(as_size(pieces()));
    parallel_for(threads_, pieces(),
                 [&](std::int64_t piece) { parts[as_size(piece)] = compare_piece(piece); });
    ErrorStats all;
    for (const ErrorStats& part : parts) all.merge(part);
    return all;
  }

  std::uint64_t hash_codes() const {
    XXH64_state_t state;
    XXH64_reset(&state, 0);
    XXH64_update(&state, codes_.data(), codes_.size());
    XXH64_update(&state, norms_.data(), norms_.size() * sizeof(float));
    return XXH64_digest(&state);
  }

  std::uint64_t hash_decoded() const { return XXH64(decoded_.data(), decoded_.size(), 0); }

  /// Throws Error that says which row cannot be trusted.
  void check_norms() const {
    for (std::int64_t r = 0; r < count_; ++r) {
      if (!std::isfinite(norms_[as_size(r)]))
        throw Error(fmt::format("the norm of row {} is not finite", r));
    }
  }

  /// Compares an evenly spaced sample, and the last row, with what `reference` makes of the same
  /// rows. The step is odd, so that the sample meets every lane. Throws Error that names the first
  /// row that differs.
  void check_sample(const Backend& reference) const {
    const std::int64_t step = std::max<std::int64_t>(count_ / kSampleRows, 1) | 1;
    for (std::int64_t r = 0; r < count_; r += step) check_row(reference, r);
    check_row(reference, count_ - 1);
  }

 private:
  std::int64_t pieces() const { return (count_ + piece_rows_ - 1) / piece_rows_; }
  std::int64_t rows_of(std::int64_t piece) const {
    return std::min(piece_rows_, count_ - piece * piece_rows_);
  }
  const std::uint8_t* row(const std::vector<std::uint8_t>& of, std::int64_t r) const {
    return of.data() + as_size(r) * row_bytes_;
  }

  ErrorStats compare_piece(std::int64_t piece) const {
    const std::int64_t first = piece * piece_rows_;
    ErrorStats stats;
    compare_rows(backend_, item_.dim, item_.dtype, row(rows_, first), item_.dtype, row(decoded_, first), rows_of(piece), stats);
    return stats;
  }

  void check_row(const Backend& reference, std::int64_t r) const {
    std::vector<std::uint8_t> codes(code_bytes_), decoded(row_bytes_);
    float norm = 0;
    reference.encode(codec_, item_.dtype, row(rows_, r), 1, codes.data(), &norm);
    reference.decode(codec_, codes.data(), &norm, 1, item_.dtype, decoded.data());
    const auto refuse = [&](const char* what) {
      throw Error(
          fmt::format("the {} of row {} differ from what {} makes", what, r, reference.name()));
    };
    if (std::memcmp(codes.data(), codes_.data() + as_size(r) * code_bytes_, code_bytes_) != 0)
      refuse("codes");
    if (std::memcmp(&norm, &norms_[as_size(r)], sizeof(float)) != 0) refuse("bits of the norm");
    if (std::memcmp(decoded.data(), row(decoded_, r), row_bytes_) != 0) refuse("decoded values");
  }

  Case item_;
  const Backend& backend_;
  int threads_;
  Codec codec_;
  const std::vector<std::uint8_t>& rows_;
  std::size_t row_bytes_, code_bytes_;
  std::int64_t count_, piece_rows_;
  std::vector<std::uint8_t> codes_;
  std::vector<float> norms_;
  std::vector<std::uint8_t> decoded_;
};

std::uint64_t hash_stats(const ErrorStats& stats) {
  const std::array<double, 9> numbers = {static_cast<double>(stats.rows()),
                                         stats.x_energy(),
                                         stats.x_hat_energy(),
                                         stats.error_energy(),
                                         stats.cosine_mean(),
                                         stats.cosine_p1(),
                                         stats.cosine_min(),
                                         stats.norm_bias(),
                                         stats.cosine_flattened()};
  return XXH64(numbers.data(), sizeof(numbers), 0);
}

/// Runs the case once, there and back, and proves the result. Returns the statistics; throws Error
/// that says what failed.
ErrorStats check_result(Workbench& bench, double expected_mse) {
  const std::int64_t refused = bench.encode();
  if (refused >= 0) throw Error(fmt::format("row {} of finite values was refused", refused));
  bench.check_norms();
  bench.decode();
  bench.check_sample(*make_cpu_backend("scalar"));
  ErrorStats stats = bench.compare();
  const double ratio = stats.relative_mse() / expected_mse;
  const double gain = bench.codec().effort() > 0 ? kBenchSearchGain : kBenchMseTolerance;
  if (!(ratio >= 1 - gain && ratio <= 1 + kBenchMseTolerance)) {
    throw Error(
        fmt::format("the relative MSE is {:.6g}, {:.3f} times the {:.6g} that the codebook gives "
                    "(at most {:.0f} % off "
                    "is right)",
                    stats.relative_mse(), ratio, expected_mse, 100 * kBenchMseTolerance));
  }
  return stats;
}

}  // namespace

std::vector<std::uint8_t> make_bench_rows(DType dtype, int dim, std::int64_t count) {
  const std::vector<double> normals = draw_normals(kRowsSeed, kPoolValues);
  const std::vector<float> values(normals.begin(), normals.end());
  std::vector<std::uint8_t> pool(values.size() * size_of(dtype));
  convert_from_float(values.data(), kPoolValues, dtype, pool.data());
  std::vector<std::uint8_t> rows(as_size(count) * as_size(dim) * size_of(dtype));
  for (std::size_t at = 0; at < rows.size(); at += pool.size()) {
    std::memcpy(rows.data() + at, pool.data(), std::min(pool.size(), rows.size() - at));
  }
  return rows;
}

double expected_relative_mse(const Codec& codec, DType dtype) {
  return codec.distortion() + rounding_mse(dtype);
}

std::uint64_t moved_bytes(const Case& item, std::int64_t rows) {
  const std::uint64_t row = as_size(item.dim) * size_of(item.dtype);
  const std::uint64_t coded = as_size(scheme_of(item).code_bytes()) + sizeof(float);
  return static_cast<std::uint64_t>(rows) *
         (item.operation == Operation::kCompare ? 2 * row + sizeof(RowSums) : row + coded);
}

CopyRate measure_copy(std::uint64_t bytes, int threads, int repeat) {
  const std::vector<std::uint8_t> from =
      make_bench_rows(DType::kBf16, 1, static_cast<std::int64_t>((bytes + 1) / 2));
  std::vector<std::uint8_t> to(from.size());
  const auto pieces = static_cast<std::int64_t>((bytes + kPieceBytes - 1) / kPieceBytes);
  CopyRate rate;
  rate.threads = threads;
  rate.bytes = bytes;
  rate.timing = time_runs(repeat, [&] {
    parallel_for(threads, pieces, [&](std::int64_t piece) {
      const std::uint64_t first = static_cast<std::uint64_t>(piece) * kPieceBytes;
      std::memcpy(to.data() + first, from.data() + first, std::min(kPieceBytes, bytes - first));
    });
  });
  if (std::memcmp(to.data(), from.data(), bytes) != 0) {
    throw Error("memcpy wrote something else than it read: test this machine's memory");
  }
  rate.gb_per_s = rate_of(bytes, rate.timing);
  return rate;
}

BenchResult run_case(const Case& item, const std::vector<std::uint8_t>& rows,
                     const Backend& backend, int threads, int repeat) {
  Workbench bench(item, rows, backend, threads);
  BenchResult result;
  result.item = item;
  result.target = backend.name();
  result.threads = threads;
  result.rows = bench.count();
  result.bytes = rows.size();
  result.moved = moved_bytes(item, result.rows);
  result.expected_mse = expected_relative_mse(bench.codec(), item.dtype);
  ErrorStats stats;
  std::function<void()> body;
  std::function<std::uint64_t()> hash;
  switch (item.operation) {
    case Operation::kEncode:
      body = [&] { bench.encode(); };
      hash = [&] { return bench.hash_codes(); };
      break;
    case Operation::kDecode:
      body = [&] { bench.decode(); };
      hash = [&] { return bench.hash_decoded(); };
      break;
    case Operation::kCompare:
      body = [&] { stats = bench.compare(); };
      hash = [&] { return hash_stats(stats); };
      break;
  }
  try {
    stats = check_result(bench, result.expected_mse);
    result.relative_mse = stats.relative_mse();
    result.hash = hash();
    const Timing timing = time_runs(repeat, body);
    if (hash() != result.hash)
      throw Error("a timed run wrote something else than the run that was checked");
    result.timing = timing;
    result.gb_per_s = rate_of(result.bytes, timing);
  } catch (const Error& error) {
    result.failure = error.what();
  }
  return result;
}

}  // namespace tq
