// The caches of other systems: against tests/foreign_cache.safetensors, which
// tests/make_foreign_cache.py computes from the published arithmetic; and single blocks by hand.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "lib/cache/block_quant.h"
#include "lib/cache/foreign_methods.h"
#include "lib/cache/fp8.h"
#include "lib/codebook.h"
#include "lib/error.h"
#include "lib/io/safetensors.h"
#include "lib/solver/published.h"
#include "tests/foreign_cache_helpers.h"

namespace tq {
namespace {

constexpr std::int64_t kHeads = 2;
constexpr std::int64_t kTokens = 33;
constexpr int kDim = 64;

std::vector<float> read_tensor(const std::string& name) {
  static const SafetensorsFile file =
      SafetensorsFile::open(std::string(TQ_TESTS_DIR) + "/foreign_cache.safetensors");
  const TensorInfo& tensor = file.at(name);
  std::size_t count = 1;
  for (const std::int64_t extent : tensor.shape) count *= static_cast<std::size_t>(extent);
  std::vector<float> values(count);
  file.read(tensor, 0, std::as_writable_bytes(std::span(values)));
  return values;
}

/// Rows of 32: what one block of a format of llama.cpp becomes.
std::vector<float> code_block(std::string_view format, std::vector<float> x) {
  x.resize(32, 0.0f);
  return code(*make_block_quant(format, 32, 0), x);
}

/// To `tolerance` of the norm of each row. Returns how many were compared: rows of NaN are not.
std::size_t check_close(const std::vector<float>& ours, const std::vector<float>& theirs,
                        double tolerance) {
  REQUIRE(ours.size() == theirs.size());
  std::size_t compared = 0;
  for (std::size_t row = 0; row < ours.size(); row += kDim) {
    if (std::isnan(theirs[row])) continue;
    double error = 0;
    double energy = 0;
    for (std::size_t i = row; i < row + kDim; ++i) {
      error += std::pow(static_cast<double>(ours[i]) - theirs[i], 2);
      energy += std::pow(static_cast<double>(theirs[i]), 2);
    }
    CAPTURE(row / kDim);
    REQUIRE(std::sqrt(error) <= tolerance * std::sqrt(energy));
    ++compared;
  }
  return compared;
}

TEST_CASE(
    "fp8, the blocks of llama.cpp and KIVI equal an independent implementation, bit for bit") {
  const std::vector<float> x = read_tensor("x");
  for (const char* name : {"fp8", "fp8:scaled", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"}) {
    CAPTURE(name);
    const CachePair pair = make_foreign_cache(name, kDim, kDim);
    CHECK(pair.name == name);
    check_equal(code(*pair.k, x, kHeads, kTokens), read_tensor(name));
    check_equal(code(*pair.v, x, kHeads, kTokens), read_tensor(name));
  }
  for (const std::string name : {"kivi4", "kivi2"}) {
    CAPTURE(name);
    const CachePair pair = make_foreign_cache(name, kDim, kDim);
    check_equal(code(*pair.k, x, kHeads, kTokens), read_tensor(name + ".k"));
    check_equal(code(*pair.v, x, kHeads, kTokens), read_tensor(name + ".v"));
  }
}

TEST_CASE("vLLM's caches equal an independent implementation") {
  const std::vector<float> x = read_tensor("x");
  struct Case {
    const char* name;
    const char* k;
    const char* v;
  };
  for (const Case& c : {Case{"vllm:turboquant_k8v4", "fp8", "vllm4.v"},
                        Case{"vllm:turboquant_4bit_nc", "vllm4.k", "vllm4.v"},
                        Case{"vllm:turboquant_k3v4_nc", "vllm3.k", "vllm4.v"},
                        Case{"vllm:turboquant_3bit_nc", "vllm3.k", "vllm3.v"}}) {
    CAPTURE(c.name);
    const CachePair pair = make_foreign_cache(c.name, kDim, kDim);
    CHECK(check_close(code(*pair.k, x, kHeads, kTokens), read_tensor(c.k), 2e-6) >= 60);
    check_equal(code(*pair.v, x, kHeads, kTokens), read_tensor(c.v));
  }
}

TEST_CASE("llama.cpp's rotation goes before the blocks and comes off again") {
  const std::vector<float> x = read_tensor("x");
  const CachePair pair = make_foreign_cache("q4_0:rotated", kDim, kDim);
  // A code may flip where rotating in float32 moves a value over an edge: a step of 1/8 of a block.
  const std::vector<float> k = code(*pair.k, x, kHeads, kTokens);
  CHECK(check_close(k, read_tensor("q4_0:rotated"), 0.05) == 66);
  // The channel that is 8 times as loud as the others costs less than without it.
  const auto error_of = [&](const std::vector<float>& x_hat) {
    double error = 0;
    for (std::size_t i = 14 * kDim; i < x.size(); ++i) {
      error += std::pow(static_cast<double>(x[i]) - x_hat[i], 2);
    }
    return error;
  };
  CHECK(error_of(k) < 0.7 * error_of(read_tensor("q4_0")));
  // At dim 128 the matrix of the values is still that of 64 channels, that of the keys is not.
  const CachePair wide = make_foreign_cache("q4_0:rotated", 128, 128);
  const std::vector<float> v = code(*wide.v, x, 1, kTokens);
  check_equal(v, k);
  CHECK(code(*wide.k, x, 1, kTokens) != k);
  CHECK(llama_k_rotation(64) == 64);
  CHECK(llama_k_rotation(128) == 128);
  CHECK(llama_k_rotation(192) == 64);
  CHECK(llama_k_rotation(256) == 256);
  CHECK(llama_v_rotation(128) == 64);
}

TEST_CASE("e4m3: all 253 values stay, halves go to even, 448 is the end") {
  int values = 0;
  for (int exponent = 0; exponent < 16; ++exponent) {
    for (int mantissa = 0; mantissa < 8; ++mantissa) {
      if (exponent == 15 && mantissa == 7) continue;  // NaN
      const float value = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), -9)
                              : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
      const float step = std::ldexp(1.0f, std::max(exponent, 1) - 10);
      REQUIRE(round_to_e4m3(value) == value);
      REQUIRE(round_to_e4m3(-value) == -value);
      REQUIRE(round_to_e4m3(value + 0.49f * step) == value);
      if (value < 448) {
        REQUIRE(round_to_e4m3(value + 0.51f * step) == value + step);
        REQUIRE(round_to_e4m3(value + 0.5f * step) == (mantissa % 2 == 0 ? value : value + step));
      }
      values += value == 0 ? 1 : 2;
    }
  }
  CHECK(values == 253);
  CHECK(round_to_e4m3(0x1p-10f) == 0);
  CHECK(round_to_e4m3(std::nextafter(0x1p-10f, 1.0f)) == 0x1p-9f);
  CHECK(round_to_e4m3(464) == 448);
  CHECK(round_to_e4m3(-1e30f) == -448);
  CHECK(round_to_e4m3(std::numeric_limits<float>::max()) == 448);
}

TEST_CASE("fp8: without scales large values are cut off, with one they are not") {
  const std::vector<float> x = {896, -1, 0.001f, 0, 3, 4, 5, 6};
  const auto plain = code(*make_fp8_method(Fp8Scale::kOne, 8), x);
  check_equal(plain, {448, -1, 0.001953125f, 0, 3, 4, 5, 6});
  const auto scaled = code(*make_fp8_method(Fp8Scale::kCalibrated, 8), x);
  check_equal(scaled, {896, -1, 0, 0, 3, 4, 5, 6});
  const std::vector<float> zeros(8, 0.0f);
  check_equal(code(*make_fp8_method(Fp8Scale::kCalibrated, 8), zeros), zeros);
  const std::vector<float> tiny(8, std::numeric_limits<float>::denorm_min());
  check_equal(code(*make_fp8_method(Fp8Scale::kCalibrated, 8), tiny), zeros);
}

TEST_CASE("llama.cpp, single blocks by hand") {
  // d = 127 / 127 = 1: halves go away from zero.
  const auto q8 = code_block("q8_0", {-127, 0.5f, 1.5f, 2.5f, -0.5f, -2.5f, 126.4f});
  check_equal({q8.begin(), q8.begin() + 8}, {-127, 1, 2, 3, -1, -3, 126, 0});

  // d = -8 / -8 = 1: codes 0..15, x in -8..7; 8 of the other sign is cut to 7.
  const auto negative = code_block("q4_0", {-8, 8, 7.4f, 0.5f, -0.5f, 0.49f, -7.6f});
  check_equal({negative.begin(), negative.begin() + 8}, {-8, 7, 7, 1, 0, 0, -8, 0});
  // d = 8 / -8 = -1: the same mirrored. Of two extremes the first decides.
  const auto positive = code_block("q4_0", {8, -8, -7.4f, -0.5f, 0.5f});
  check_equal({positive.begin(), positive.begin() + 6}, {8, -7, -7, -1, 0, 0});
  const auto q5 = code_block("q5_0", {-16, 16, 15.4f, 3.5f});
  check_equal({q5.begin(), q5.begin() + 5}, {-16, 15, 15, 4, 0});

  // m = -1, d = 31 / 31 = 1; F16 holds both.
  const auto q51 = code_block("q5_1", {-1, 30, 0.5f, 0.49f});
  check_equal({q51.begin(), q51.begin() + 5}, {-1, 30, 1, 0, 0});
  const auto q41 = code_block("q4_1", {14, -1, 2.4f});
  check_equal({q41.begin(), q41.begin() + 4}, {14, -1, 2, 0});
}

TEST_CASE("llama.cpp: the code comes from the float32 scale, the value from the F16 scale") {
  // d = 0.1 / 127 in float32; in F16, below 2^-10, a multiple of 2^-21 near it.
  const auto x_hat = code_block("q8_0", {0.1f, 0.05f});
  CHECK(x_hat[0] == 127 * std::ldexp(1651.0f, -21));
  CHECK(x_hat[0] != 0.1f);
  CHECK(x_hat[1] == 64 * std::ldexp(1651.0f, -21));
}

TEST_CASE("blocks of zeros, of one value, and of values too small for F16") {
  for (const char* format : {"q8_0", "q5_1", "q5_0", "q4_1", "q4_0"}) {
    CAPTURE(format);
    const std::vector<float> zeros(32, 0.0f);
    check_equal(code_block(format, zeros), zeros);
    const std::vector<float> same(32, -127.0f);
    check_equal(code_block(format, same), same);
    check_equal(code_block(format, std::vector<float>(32, 1e-40f)), zeros);
  }
}

TEST_CASE("KIVI: a constant group keeps its value, and halves go to even") {
  std::vector<float> x(32, 1.25f);
  const CachePair pair = make_foreign_cache("kivi2", 32, 32);
  check_equal(code(*pair.v, x), x);
  // min 0, max 3: scale 1. 0.5 and 2.5 are halves.
  x.assign(32, 0.0f);
  x[0] = 3, x[1] = 0.5f, x[2] = 1.5f, x[3] = 2.5f, x[4] = 2.6f;
  const auto x_hat = code(*pair.v, x);
  check_equal({x_hat.begin(), x_hat.begin() + 6}, {3, 0, 2, 2, 3, 0});
  // Along a channel: 32 tokens of 32 channels, of which channel 7 counts up.
  std::vector<float> k(32 * 32, 0.5f);
  for (std::size_t t = 0; t < 32; ++t) k[t * 32 + 7] = static_cast<float>(t);
  const auto k_hat = code(*pair.k, k, 1, 32);
  const float scale = 10.3359375f;  // 31 / 3 in F16
  for (std::size_t t = 0; t < 32; ++t) {
    REQUIRE(k_hat[t * 32 + 6] == 0.5f);
    REQUIRE(k_hat[t * 32 + 7] == std::nearbyint(static_cast<float>(t) / scale) * scale);
  }
}

TEST_CASE("vLLM: a tie goes to the upper level, and the norm is corrected") {
  // H of a constant row is one-hot: the other coordinates are 0, the middle edge.
  const std::vector<float> x(kDim, 1.0f);
  const CachePair pair = make_foreign_cache("vllm:turboquant_4bit_nc", kDim, kDim);
  const auto x_hat = code(*pair.k, x);
  const std::vector<double> levels = make_vllm_levels(kDim, 4);
  const double loud = levels[15];
  const double quiet = levels[8];
  CHECK(quiet > 0);
  // H of (loud, quiet, quiet, ...): the first is loud + 63 quiet, the others loud - quiet, over 8.
  const double norm = std::sqrt(loud * loud + 63 * quiet * quiet);
  CHECK(x_hat[0] == doctest::Approx((loud + 63 * quiet) / norm));
  CHECK(x_hat[1] == doctest::Approx((loud - quiet) / norm));
  double energy = 0;
  for (const float value : x_hat) energy += static_cast<double>(value) * value;
  CHECK(energy == doctest::Approx(kDim));
}

TEST_CASE("vLLM's levels are nearly, and not quite, the Lloyd-Max levels of the Gaussian") {
  for (const int bits : {3, 4}) {
    const std::vector<double> levels = make_vllm_levels(kDim, bits);
    check_equal({levels.begin(), levels.end()},
                read_tensor(bits == 3 ? "vllm3.levels" : "vllm4.levels"));
    const Codebook exact = find_codebook(Density::kGaussian, kDim, bits).table;
    double largest = 0;
    for (std::size_t i = 0; i < levels.size(); ++i) {
      largest = std::max(largest, std::abs(levels[i] - exact.levels[i]) * std::sqrt(kDim));
    }
    CAPTURE(bits);
    CHECK(largest > 1e-3);
    CHECK(largest < 2e-3);
  }
}

}  // namespace
}  // namespace tq
