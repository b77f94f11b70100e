// The case list, and that a wrong result is never timed: backends that are broken on purpose are
// refused.
#include <doctest/doctest.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <set>

#include "lib/bench/bench.h"
#include "lib/convert.h"
#include "tests/codec_helpers.h"

namespace tq {
namespace {

constexpr Case kEncode64 = {Operation::kEncode, 64, 3, DType::kBf16};
constexpr Case kDecode64 = {Operation::kDecode, 64, 3, DType::kBf16};
constexpr Case kCompare64 = {Operation::kCompare, 64, 3, DType::kBf16};
constexpr std::int64_t kRows64 =
    6400;  // 4e5 values and more; the sample is every seventh row and the last

const std::vector<std::uint8_t>& rows64() {
  static const std::vector<std::uint8_t> rows = make_bench_rows(DType::kBf16, 64, kRows64);
  return rows;
}

/// Hands everything to the widest CPU target. Tests override what they break.
class Wrapper : public Backend {
 public:
  std::string name() const override { return "broken"; }
  std::int64_t encode(const Codec& codec, DType dtype, const void* rows, std::int64_t count,
                      std::uint8_t* codes, float* norms) const override {
    return right_->encode(codec, dtype, rows, count, codes, norms);
  }
  void decode(const Codec& codec, const std::uint8_t* codes, const float* norms, std::int64_t count,
              DType dtype, void* rows) const override {
    right_->decode(codec, codes, norms, count, dtype, rows);
  }
  std::int64_t sketch(const Codec& codec, DType dtype, const void* rows, const float* x_hat,
                      std::int64_t count, std::uint8_t* signs, float* norms) const override {
    return right_->sketch(codec, dtype, rows, x_hat, count, signs, norms);
  }
  void add_sketches(const Codec& codec, const std::uint8_t* signs, const float* norms,
                    std::int64_t count, float* x_hat) const override {
    right_->add_sketches(codec, signs, norms, count, x_hat);
  }
  void compare(int dim, DType dtype, const void* x, DType hat_dtype, const void* x_hat,
               std::int64_t count, RowSums* sums) const override {
    right_->compare(dim, dtype, x, hat_dtype, x_hat, count, sums);
  }

 private:
  std::unique_ptr<Backend> right_ = make_cpu_backend();
};

/// Encodes right, and then `spoil` changes what was written.
class BrokenEncoder final : public Wrapper {
 public:
  using Spoil = std::function<std::int64_t(const std::uint8_t* rows, std::int64_t count,
                                           std::uint8_t* codes, float* norms)>;
  explicit BrokenEncoder(Spoil spoil) : spoil_(std::move(spoil)) {}
  std::int64_t encode(const Codec& codec, DType dtype, const void* rows, std::int64_t count,
                      std::uint8_t* codes, float* norms) const override {
    Wrapper::encode(codec, dtype, rows, count, codes, norms);
    return spoil_(static_cast<const std::uint8_t*>(rows), count, codes, norms);
  }

 private:
  Spoil spoil_;
};

/// Decodes right, and then `spoil` changes row `number` (of the whole case) in place.
class BrokenDecoder final : public Wrapper {
 public:
  using Spoil = std::function<void(std::int64_t number, std::uint16_t* row)>;
  explicit BrokenDecoder(Spoil spoil) : spoil_(std::move(spoil)) {}
  std::int64_t encode(const Codec& codec, DType dtype, const void* rows, std::int64_t count,
                      std::uint8_t* codes, float* norms) const override {
    if (rows == rows64().data()) first_codes_ = codes;
    return Wrapper::encode(codec, dtype, rows, count, codes, norms);
  }
  void decode(const Codec& codec, const std::uint8_t* codes, const float* norms, std::int64_t count,
              DType dtype, void* rows) const override {
    Wrapper::decode(codec, codes, norms, count, dtype, rows);
    const std::int64_t first = (codes - first_codes_) / codec.scheme().code_bytes();
    for (std::int64_t r = 0; r < count; ++r)
      spoil_(first + r, static_cast<std::uint16_t*>(rows) + r * codec.scheme().dim);
  }

 private:
  Spoil spoil_;
  mutable const std::uint8_t* first_codes_ = nullptr;
};

void check_refused(const Backend& backend, const Case& item, const std::string& words) {
  const BenchResult result = run_case(item, rows64(), backend, 1, 1);
  CAPTURE(result.failure);
  CHECK(result.failure.find(words) != std::string::npos);
  CHECK(result.gb_per_s == 0);
  CHECK(result.timing.median_us == 0);
  CHECK(result.timing.min_us == 0);
}

TEST_CASE("the case list is the product of its axes, and every case has a codec") {
  const std::vector<Case> cases = list_cases(bench_axes());
  CHECK(cases.size() == 3 * 4 * 3);
  CHECK(cases[0] == Case{Operation::kEncode, 64, 2, DType::kBf16});
  CHECK(cases[1] == Case{Operation::kDecode, 64, 2, DType::kBf16});
  CHECK(cases[3] == Case{Operation::kEncode, 64, 3, DType::kBf16});
  CHECK(cases.back() == Case{Operation::kCompare, 256, 4, DType::kBf16});
  std::set<std::string> names;
  for (const Case& item : cases) names.insert(describe(item));
  CHECK(names.size() == cases.size());
  CHECK(names.contains("encode, dim 128, 3 bits, BF16"));
  for (const Case& item : cases) CHECK_NOTHROW(Codec(default_scheme(item.bits, item.dim)));
}

TEST_CASE("cases of native TQ3 have its table and divide rows first") {
  CaseAxes axes = bench_axes();
  axes.dims = {128};
  axes.tq3 = true;
  axes.norms = {NormMode::kRaw, NormMode::kCorrected};
  const std::vector<Case> cases = list_cases(axes);
  CHECK(cases.size() == 3 * 3 * 2);
  for (const Case& item : cases) {
    const Codec codec(scheme_of(item));
    CHECK(codec.divides_first());
    CHECK(codec.scheme().norm == item.norm);
    CHECK(describe(item).ends_with(", native TQ3"));
  }
  const std::vector<std::uint8_t> rows = make_bench_rows(DType::kBf16, 128, 3200);
  const BenchResult groups = run_case(cases.front(), rows, *make_cpu_backend(), 2, 1);
  CHECK(groups.failure == "");
  Case plain = cases.front();
  plain.tq3 = false;
  CHECK(run_case(plain, rows, *make_cpu_backend(), 2, 1).hash != groups.hash);
}

TEST_CASE("the parity list meets every path of the code") {
  const CaseAxes axes = parity_axes();
  std::set<int> orders;
  bool codes_end_within_a_byte = false;
  for (const int dim : axes.dims) {
    CHECK(dim >= kMinDim);
    CHECK(dim <= kMaxRowDim);
    orders.insert(hadamard_order(dim));
    for (const int bits : axes.bits) codes_end_within_a_byte |= dim * bits % 8 != 0;
  }
  CHECK(orders == std::set<int>{0, 1, 12, 20, 28, 36});
  CHECK(codes_end_within_a_byte);
  CHECK(axes.bits == std::vector<int>{1, 2, 3, 4, 5, 6, 7, 8});
  CHECK(axes.dtypes.size() == 3);
  const CaseAxes timed = bench_axes();
  for (const int dim : timed.dims)
    CHECK(std::find(axes.dims.begin(), axes.dims.end(), dim) != axes.dims.end());
}

TEST_CASE("rows are standard normal, never zero, and no row comes twice") {
  constexpr int kDim = 64;
  constexpr std::int64_t kCount =
      20000;  // 1.28 million values: more than the stream has before it repeats
  const std::vector<std::uint8_t> rows = make_bench_rows(DType::kF32, kDim, kCount);
  REQUIRE(rows.size() == kCount * kDim * sizeof(float));
  const auto* x = reinterpret_cast<const float*>(rows.data());
  double sum = 0, squares = 0;
  std::set<std::uint64_t> hashes;
  for (std::int64_t r = 0; r < kCount; ++r) {
    for (int i = 0; i < kDim; ++i) {
      sum += x[r * kDim + i];
      squares += x[r * kDim + i] * x[r * kDim + i];
    }
    hashes.insert(XXH64(x + r * kDim, kDim * sizeof(float), 0));
  }
  CHECK(std::abs(sum / (kCount * kDim)) < 0.005);  // five standard errors of a million draws
  CHECK(std::abs(squares / (kCount * kDim) - 1) < 0.007);
  CHECK(hashes.size() == kCount);
}

TEST_CASE("the hash is that of the output, whatever the target and the threads") {
  for (const Case& item : {kEncode64, kDecode64, kCompare64}) {
    const BenchResult first = run_case(item, rows64(), *make_cpu_backend("scalar"), 1, 2);
    CHECK(first.failure == "");
    CHECK(first.rows == kRows64);
    CHECK(first.bytes == rows64().size());
    CHECK(first.gb_per_s > 0);
    CHECK(first.timing.min_us > 0);
    CHECK(first.timing.median_us >= first.timing.min_us);
    CHECK(std::abs(first.relative_mse / first.expected_mse - 1) < kBenchMseTolerance);
    for (const std::string& target : cpu_targets()) {
      for (const int threads : {1, 3}) {
        const BenchResult again = run_case(item, rows64(), *make_cpu_backend(target), threads, 1);
        CAPTURE(describe(item));
        CAPTURE(target);
        CAPTURE(threads);
        CHECK(again.failure == "");
        CHECK(again.hash == first.hash);
        CHECK(again.target == "cpu/" + target);
      }
    }
  }
}

TEST_CASE("the pieces of a case make up one call for all rows") {
  const Codec codec(default_scheme(3, 64));
  const auto backend = make_cpu_backend();
  std::vector<std::uint8_t> codes(kRows64 * static_cast<std::size_t>(codec.scheme().code_bytes()));
  std::vector<float> norms(kRows64);
  std::vector<std::uint8_t> decoded(rows64().size());
  REQUIRE(backend->encode(codec, DType::kBf16, rows64().data(), kRows64, codes.data(),
                          norms.data()) == -1);
  backend->decode(codec, codes.data(), norms.data(), kRows64, DType::kBf16, decoded.data());
  CHECK(run_case(kDecode64, rows64(), *backend, 2, 1).hash ==
        XXH64(decoded.data(), decoded.size(), 0));
  const auto* norm_bytes = reinterpret_cast<const std::uint8_t*>(norms.data());
  codes.insert(codes.end(), norm_bytes, norm_bytes + norms.size() * sizeof(float));
  CHECK(run_case(kEncode64, rows64(), *backend, 2, 1).hash == XXH64(codes.data(), codes.size(), 0));
}

TEST_CASE("the tolerance holds at every width and dtype, also where rounding the rows is felt") {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBf16}) {
    for (const int dim : {100, 1024}) {
      const std::vector<std::uint8_t> rows = make_bench_rows(dtype, dim, 409600 / dim);
      for (const int bits : {1, 4, 8}) {
        const BenchResult result =
            run_case({Operation::kCompare, dim, bits, dtype}, rows, *make_cpu_backend(), 2, 1);
        CAPTURE(describe(result.item));
        CHECK(result.failure == "");
      }
    }
  }
}

TEST_CASE("a backend that writes wrong codes or norms has no time") {
  constexpr std::int64_t kNoneRefused = -1;
  const BrokenEncoder one_code([](const std::uint8_t*, std::int64_t, std::uint8_t* codes, float*) {
    codes[0] ^= 1;
    return kNoneRefused;
  });
  for (const Case& item : {kEncode64, kDecode64, kCompare64}) {
    check_refused(one_code, item, "the codes of row 0 differ from what cpu/scalar makes");
  }
  const BrokenEncoder last_code(
      [](const std::uint8_t* rows, std::int64_t count, std::uint8_t* codes, float*) {
        if (rows + count * 128 == rows64().data() + rows64().size()) codes[count * 24 - 1] ^= 128;
        return kNoneRefused;
      });
  check_refused(last_code, kEncode64, "the codes of row 6399 differ");
  const BrokenEncoder norm_bit([](const std::uint8_t*, std::int64_t, std::uint8_t*, float* norms) {
    norms[0] = std::nextafterf(norms[0], 100);
    return kNoneRefused;
  });
  check_refused(norm_bit, kEncode64, "norm of row 0 differ");
  const BrokenEncoder norm_nan([](const std::uint8_t*, std::int64_t, std::uint8_t*, float* norms) {
    norms[1] = std::numeric_limits<float>::quiet_NaN();
    return kNoneRefused;
  });
  check_refused(norm_nan, kEncode64, "the norm of row 1 is not finite");
  check_refused(BrokenEncoder([](auto...) { return std::int64_t{5}; }), kEncode64,
                "row 5 of finite values was refused");
}

TEST_CASE("a backend that decodes wrong has no time, and neither has one that is too good") {
  check_refused(BrokenDecoder([](std::int64_t, std::uint16_t* row) { row[63] ^= 1; }), kDecode64,
                "the decoded values of row 0 differ");
  const BrokenDecoder zeros([](std::int64_t number, std::uint16_t* row) {
    if (number % 7 == 2) std::fill(row, row + 64, std::uint16_t{0});
  });
  check_refused(zeros, kDecode64, "the relative MSE is");
  const BrokenDecoder original([](std::int64_t number, std::uint16_t* row) {
    if (number % 7 == 2)
      std::copy_n(reinterpret_cast<const std::uint16_t*>(rows64().data()) + number * 64, 64, row);
  });
  check_refused(original, kCompare64, "the relative MSE is");
  const BrokenDecoder infinite([](std::int64_t number, std::uint16_t* row) {
    if (number == 1) row[0] = 0x7f80;
  });
  check_refused(infinite, kDecode64, "NaN or infinity");
}

TEST_CASE("a backend that is right only while it is checked has no time") {
  std::atomic<std::int64_t> seen = 0;
  const BrokenEncoder tired(
      [&](const std::uint8_t*, std::int64_t count, std::uint8_t* codes, float*) {
        if (seen.fetch_add(count) >= kRows64) codes[24] ^= 1;
        return std::int64_t{-1};
      });
  check_refused(tired, kEncode64, "a timed run wrote something else");
}

TEST_CASE("a copy of any size has a rate") {
  for (const std::uint64_t bytes : {1u, 3u, 65535u, 65537u, 1000000u}) {
    const CopyRate rate = measure_copy(bytes, 2, 3);
    CHECK(rate.bytes == bytes);
    CHECK(rate.threads == 2);
    CHECK(rate.gb_per_s > 0);
    CHECK(rate.timing.median_us >= rate.timing.min_us);
  }
}

}  // namespace
}  // namespace tq
