// Caches with remedies: means, outlier channels, groups, exact tokens. What is promised of a coded
// head, and of its bytes.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "lib/cache/cache_streams.h"
#include "lib/convert.h"
#include "lib/error.h"
#include "tests/codec_helpers.h"
#include "tests/io_helpers.h"

namespace tq {
namespace {

using test::error_of;

/// Rows of `dim` Gaussian values, the channels 3, 3 + stride .. `gain` times louder.
std::vector<float> loud_rows(std::uint32_t seed, std::int64_t tokens, int dim, int stride,
                             float gain) {
  std::vector<float> x = test::gaussian_rows(seed, tokens, dim);
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (static_cast<int>(i % static_cast<std::size_t>(dim)) % stride == 3) x[i] *= gain;
  }
  return x;
}

CacheScheme with_outliers(int dim, int bits, int channels, int outlier_bits) {
  CacheScheme scheme = plain_scheme(default_scheme(bits, dim - channels));
  scheme.dim = dim;
  scheme.outlier_channels = channels;
  scheme.outlier_rows = default_scheme(outlier_bits, channels);
  return scheme;
}

CacheScheme with_exact(CacheScheme scheme, int sinks, int recent, DType dtype = DType::kBf16) {
  scheme.sinks = sinks;
  scheme.recent = recent;
  scheme.exact_dtype = dtype;
  return scheme;
}

CacheScheme centered(CacheScheme scheme) {
  scheme.center = true;
  return scheme;
}

CacheScheme with_sketch(CacheScheme scheme) {
  scheme.rows.qjl = 1042;
  return scheme;
}

CacheScheme with_f16_norms(CacheScheme scheme) {
  scheme.rows.norm_dtype = DType::kF16;
  if (scheme.outlier_channels > 0) scheme.outlier_rows.norm_dtype = DType::kF16;
  return scheme;
}

/// Every remedy alone, and together where they go together; dims that are powers of two, of each
/// other kind, and odd.
std::vector<CacheScheme> all_schemes() {
  return {plain_scheme(default_scheme(3, 64)),
          centered(plain_scheme(default_scheme(5, 13))),
          with_sketch(centered(plain_scheme(default_scheme(2, 24)))),
          with_outliers(128, 2, 32, 3),
          with_outliers(21, 3, 8, 7),
          with_f16_norms(with_outliers(40, 1, 11, 2)),
          with_exact(plain_scheme(default_scheme(4, 9)), 4, 0),
          with_exact(plain_scheme(default_scheme(1, 96)), 0, 6, DType::kF16),
          with_exact(with_f16_norms(with_sketch(plain_scheme(default_scheme(3, 16)))), 2, 3),
          with_exact(centered(with_outliers(96, 2, 16, 4)), 1, 5),
          group_scheme(2, 64, 32),
          group_scheme(3, 27, 9),
          with_exact(group_scheme(8, 15, 15), 2, 2, DType::kF16),
          exact_scheme(33, DType::kBf16),
          exact_scheme(8, DType::kF16)};
}

std::string text_of(const CacheScheme& scheme) { return format_cache_scheme(scheme); }

struct Trip {
  CodedHead coded;
  std::vector<float> rows;
};

Trip round_trip(const CacheScheme& scheme, const std::vector<float>& x,
                const char* target = "scalar") {
  const CacheCodec codec(scheme);
  const auto backend = make_cpu_backend(target);
  Trip trip{encode_head(*backend, codec, x, "x"), {}};
  trip.rows = decode_head(*backend, codec, trip.coded, Decode::kInnerProduct);
  return trip;
}

double error_energy(const std::vector<float>& x, const std::vector<float>& y) {
  return std::inner_product(x.begin(), x.end(), y.begin(), 0.0, std::plus<>(),
                            [](float a, float b) {
                              return std::pow(static_cast<double>(a) - static_cast<double>(b), 2);
                            });
}

std::vector<float> round_to(const std::vector<float>& x, DType dtype) {
  std::vector<std::uint16_t> half(x.size());
  std::vector<float> back(x.size());
  convert_from_float(x.data(), static_cast<std::int64_t>(x.size()), dtype, half.data());
  convert_to_float(dtype, half.data(), static_cast<std::int64_t>(x.size()), back.data());
  return back;
}

TEST_CASE("the text of every scheme is read back as that scheme") {
  for (const CacheScheme& scheme : all_schemes()) {
    CAPTURE(text_of(scheme));
    CHECK(parse_cache_scheme(text_of(scheme), "t") == scheme);
  }
  CHECK(text_of(with_exact(centered(with_outliers(128, 2, 32, 3)), 4, 128)) ==
        "tq/1 bits=2 dim=96 rotation=rht2 seed=42 codebook=beta-d96-b2 norm=raw norm_dtype=F32 "
        "qjl=none center=mean "
        "outliers=32:3:beta-d32-b3 exact=4+128:BF16");
  CHECK(text_of(with_exact(group_scheme(2, 128, 32), 0, 128)) ==
        "group/1 bits=2 dim=128 group=32 exact=0+128:BF16");
  CHECK(text_of(exact_scheme(128, DType::kF16)) == "exact/1 dim=128 dtype=F16");
}

TEST_CASE(
    "a text with anything unknown, out of range or out of place is refused, and the message says "
    "where it stands") {
  const std::string rows = format_scheme(default_scheme(2, 96));
  const std::string sketched = format_scheme(with_sketch(plain_scheme(default_scheme(2, 96))).rows);
  const std::vector<std::string> refused = {"",
                                            " ",
                                            "tq/2",
                                            rows + " ",
                                            rows + " center",
                                            rows + " center=",
                                            rows + " center=max",
                                            rows + " center=mean center=mean",
                                            rows + " exact=1+1:BF16 center=mean",
                                            rows + " outliers=8:3:b center=mean",
                                            rows + " outliers=7:3:b",
                                            rows + " outliers=8:9:b",
                                            rows + " outliers=8:0:b",
                                            rows + " outliers=8:3:",
                                            rows + " outliers=8:3",
                                            rows + " outliers=+8:3:b",
                                            rows + " outliers=08:3:b",
                                            rows + " outliers=929:3:b",
                                            rows + " outliers=99999999999999999999:3:b",
                                            sketched + " outliers=8:3:b",
                                            rows + " exact=0+0:BF16",
                                            rows + " exact=1:BF16",
                                            rows + " exact=1+1",
                                            rows + " exact=1+1:F32",
                                            rows + " exact=-1+1:BF16",
                                            rows + " exact=1+1048577:BF16",
                                            rows + " exact=01+1:BF16",
                                            rows + "  center=mean",
                                            rows + " trellis=1",
                                            "group/1",
                                            "group/1 bits=2 dim=64",
                                            "group/1 bits=2 dim=64 group=24",
                                            "group/1 bits=2 dim=64 group=4",
                                            "group/1 bits=2 dim=64 group=128",
                                            "group/1 bits=9 dim=64 group=32",
                                            "group/1 dim=64 bits=2 group=32",
                                            "group/1 bits=2 dim=64 group=32 center=mean",
                                            "group/1 bits=2 dim=4 group=4",
                                            "group/2 bits=2 dim=64 group=32",
                                            "exact/1",
                                            "exact/1 dim=64",
                                            "exact/1 dim=64 dtype=F32",
                                            "exact/1 dim=1025 dtype=F16",
                                            "exact/1 dim=64 dtype=F16 exact=1+1:F16",
                                            "exact/2 dim=64 dtype=F16"};
  for (const std::string& text : refused) {
    CAPTURE(text);
    const std::string message = error_of([&] { parse_cache_scheme(text, "file: k.0"); });
    CHECK(message.starts_with("file: k.0"));
    CHECK(message.find('\n') == message.npos);
  }
  CHECK_NOTHROW(parse_cache_scheme(rows + " outliers=928:3:b", "t"));  // 1024 elements
}

TEST_CASE("bytes: what is predicted is what is written, and what is written is read back") {
  for (const CacheScheme& scheme : all_schemes()) {
    const CacheCodec codec(scheme);
    const auto backend = make_cpu_backend("scalar");
    for (const std::int64_t tokens : {1, 2, 5, 6, 7, 19}) {
      CAPTURE(text_of(scheme));
      CAPTURE(tokens);
      const std::vector<float> x = loud_rows(7, tokens, scheme.dim, 6, 8);
      const CodedHead coded = encode_head(*backend, codec, x, "x");
      const StreamBytes streams = to_streams(scheme, coded);
      const std::vector<StreamSpec> specs = list_streams(scheme, tokens);
      REQUIRE(streams.size() == specs.size());
      std::uint64_t bytes = 0;
      for (std::size_t i = 0; i < specs.size(); ++i) {
        CHECK(streams[i].size() == specs[i].bytes());
        bytes += streams[i].size();
      }
      CHECK(scheme.bytes(1, tokens) == bytes);
      CHECK(scheme.bytes(3, tokens) == 3 * bytes);
      CHECK(make_cache_method({std::make_shared<const CacheCodec>(codec)}, *backend, 1)->bytes(3, tokens) ==
            3 * bytes);
      const CodedHead read = from_streams(scheme, tokens, streams, "t");
      CHECK(to_streams(scheme, read) == streams);
      CHECK(decode_head(*backend, codec, read, Decode::kInnerProduct) ==
            decode_head(*backend, codec, coded, Decode::kInnerProduct));
    }
  }
}

TEST_CASE("true averages: 32 of 128 channels at 3 bits and the others at 2 are 2.25") {
  CHECK(with_outliers(128, 2, 32, 3).average_bits() == 2.25);
  CHECK(with_outliers(128, 2, 32, 3).row_bytes() == 96 * 2 / 8 + 4 + 32 * 3 / 8 + 4);
  CHECK(with_sketch(plain_scheme(default_scheme(3, 64))).average_bits() == 4);
  CHECK(group_scheme(2, 64, 32).row_bytes() == 16 + 2 * 4);
  CHECK(exact_scheme(64, DType::kF16).average_bits() == 16);
  CHECK(with_exact(plain_scheme(default_scheme(4, 64)), 2, 6).value_bits(3, 16) ==
        3 * 64 * (8 * 4 + 8 * 16));
  CHECK(with_exact(plain_scheme(default_scheme(4, 64)), 2, 6).value_bits(1, 5) == 64 * 5 * 16);
}

TEST_CASE("center: a constant added to all keys costs nothing with it, and much without") {
  constexpr int kDim = 64;
  const std::int64_t tokens = 500;
  const std::vector<float> x = test::gaussian_rows(21, tokens, kDim);
  std::vector<float> shifted = x;
  const std::vector<float> constant = test::gaussian_rows(22, 1, kDim);
  for (std::size_t i = 0; i < x.size(); ++i) shifted[i] += 12 * constant[i % kDim];
  const CacheScheme plain = plain_scheme(default_scheme(3, kDim));
  const double without_shift = error_energy(x, round_trip(centered(plain), x).rows);
  const double with_shift = error_energy(shifted, round_trip(centered(plain), shifted).rows);
  CHECK(with_shift / without_shift ==
        doctest::Approx(1).epsilon(0.03));  // the mean is kept in BF16
  CHECK(error_energy(shifted, round_trip(plain, shifted).rows) > 50 * with_shift);
  const CodedHead coded = round_trip(centered(plain), shifted).coded;
  CHECK(with_shift / expected_error(CacheCodec(centered(plain)), coded, shifted) ==
        doctest::Approx(1).epsilon(0.02));
  for (std::size_t i = 0; i < kDim; ++i) {
    double mean = 0;
    for (std::size_t t = 0; t < static_cast<std::size_t>(tokens); ++t)
      mean += static_cast<double>(shifted[t * kDim + i]) / 500;
    CHECK(coded.center[i] == [&] {
      const auto rounded = static_cast<float>(mean);
      std::uint16_t half = 0;
      convert_from_float(&rounded, 1, DType::kBf16, &half);
      return half;
    }());
  }
}

TEST_CASE(
    "outliers: the loud channels are found, and the error is what theory expects of the two "
    "instances") {
  for (const auto& [dim, channels, bits, outlier_bits] :
       {std::tuple{128, 16, 2, 4}, {96, 12, 3, 5}, {45, 9, 2, 3}}) {
    const CacheScheme scheme = with_outliers(dim, bits, channels, outlier_bits);
    CAPTURE(text_of(scheme));
    const std::int64_t tokens = test::reduced(1500, 800);
    const std::vector<float> x = loud_rows(31, tokens, dim, dim / channels, 10);
    const Trip trip = round_trip(scheme, x);
    std::vector<std::uint16_t> loud(static_cast<std::size_t>(channels));
    for (std::size_t i = 0; i < loud.size(); ++i)
      loud[i] = static_cast<std::uint16_t>(3 + i * static_cast<std::size_t>(dim / channels));
    CHECK(trip.coded.channels == loud);
    const double error = error_energy(x, trip.rows);
    CHECK(error / expected_error(CacheCodec(scheme), trip.coded, x) ==
          doctest::Approx(1).epsilon(0.03));
    const double plain =
        error_energy(x, round_trip(plain_scheme(default_scheme(bits, dim)), x).rows);
    CHECK(plain > 2 * error);
    if (dim == 45) continue;
    CHECK(plain > 6 * error);  // 2 bits more where the energy is
  }
}

TEST_CASE("equally loud channels: the lower ones are the outliers") {
  const std::vector<float> x(3 * 24, 1.0f);
  const Trip trip = round_trip(with_outliers(24, 2, 8, 3), x);
  std::vector<std::uint16_t> first(8);
  std::iota(first.begin(), first.end(), std::uint16_t{0});
  CHECK(trip.coded.channels == first);
}

TEST_CASE("exact tokens are the source, bit for bit, in its own type; the others are not") {
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    for (const CacheScheme& scheme : {with_exact(plain_scheme(default_scheme(2, 24)), 3, 5, dtype),
                                      with_exact(centered(with_outliers(24, 2, 8, 3)), 3, 5, dtype),
                                      with_exact(group_scheme(2, 24, 8), 3, 5, dtype)}) {
      CAPTURE(text_of(scheme));
      for (const std::int64_t tokens : {1, 3, 7, 8, 9, 20}) {
        const std::vector<float> x = round_to(test::gaussian_rows(41, tokens, 24), dtype);
        const std::vector<float> x_hat = round_trip(scheme, x).rows;
        REQUIRE(x_hat.size() == x.size());
        for (std::int64_t t = 0; t < tokens; ++t) {
          const auto row = static_cast<std::ptrdiff_t>(t * 24);
          const bool exact = t < 3 || t >= tokens - 5;
          if (tokens == 9 && !exact) continue;  // one coded token is its own mean
          CHECK(std::equal(x.begin() + row, x.begin() + row + 24, x_hat.begin() + row) == exact);
        }
      }
    }
    const std::vector<float> x = round_to(test::gaussian_rows(42, 9, 16), dtype);
    CHECK(round_trip(exact_scheme(16, dtype), x).rows == x);
  }
}

TEST_CASE("every target codes the same streams") {
  for (const CacheScheme& scheme : all_schemes()) {
    CAPTURE(text_of(scheme));
    const std::vector<float> x = loud_rows(51, 37, scheme.dim, 7, 20);
    const Trip first = round_trip(scheme, x);
    for (const std::string& target : cpu_targets()) {
      CAPTURE(target);
      const Trip other = round_trip(scheme, x, target.c_str());
      CHECK(to_streams(scheme, other.coded) == to_streams(scheme, first.coded));
      CHECK(other.rows == first.rows);
    }
  }
}

TEST_CASE("what cannot be coded is an error that names token and channel") {
  const auto refusal = [](const CacheScheme& scheme, const std::vector<float>& x) {
    return error_of([&] { round_trip(scheme, x); });
  };
  std::vector<float> x = test::gaussian_rows(61, 10, 16);
  for (const CacheScheme& scheme : {centered(plain_scheme(default_scheme(3, 16))),
                                    group_scheme(3, 16, 8), exact_scheme(16, DType::kBf16)}) {
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      std::vector<float> broken = x;
      broken[5 * 16 + 9] = bad;
      CHECK(refusal(scheme, broken).starts_with("x, token 5, channel 9: the value is "));
    }
  }
  const auto contains = [](const std::string& text, const char* part) {
    return text.find(part) != text.npos;
  };
  x[9 * 16 + 2] = 70000;
  CHECK(refusal(with_exact(plain_scheme(default_scheme(3, 16)), 0, 2, DType::kF16), x)
            .starts_with("x, token 9, channel 2: the value overflows F16"));
  CHECK(refusal(with_exact(plain_scheme(default_scheme(3, 16)), 9, 0, DType::kF16), x) ==
        "no error");
  x[9 * 16 + 2] = 1e6f;
  CHECK(contains(refusal(group_scheme(3, 16, 8), x),
                 "x, token 9: the minimum or the step of a group overflows F16"));
  x[9 * 16 + 2] = 3.4e38f;  // above the largest BF16, below the largest float
  CHECK(refusal(exact_scheme(16, DType::kBf16), x)
            .starts_with("x, token 9, channel 2: the value overflows BF16"));
  CHECK(refusal(centered(plain_scheme(default_scheme(3, 16))), std::vector<float>(16, 3.4e38f))
            .starts_with("x, channel 0: the mean"));
}

}  // namespace
}  // namespace tq
