// The codec of native TQ3: one result on every CPU target, also for rows that no model has.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "lib/io/tq3_checkpoint.h"
#include "tests/codec_helpers.h"

namespace tq {
namespace {

/// Rows of every kind: usual ones, zeros, tiny and huge values, values far below their row, subnormals.
std::vector<float> make_rows(int dim) {
  constexpr int kKinds = 8;
  std::vector<float> x = test::gaussian_rows(11, 16 * kKinds * 4, dim);
  const float scales[kKinds] = {1.0f, 0.0f, 1e-30f, 1e30f, 0x1p-60f, 1.0f, 0x1p63f, 3e-12f};
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t row = i / static_cast<std::size_t>(dim);
    const std::size_t kind = row < 64 ? 0 : row % kKinds;  // first blocks in which all rows are usual
    x[i] *= scales[kind];
    if (kind == 5 && i % 3 == 0) x[i] *= 0x1p-120f;
    if (kind == 5 && i % 7 == 0) x[i] = std::copysign(0x1p-149f * static_cast<float>(i % 5), x[i]);
    if (kind == 7 && i % 2 == 0) x[i] = 0.0f;
  }
  return x;
}

TEST_CASE("native TQ3: every CPU target writes the same bytes, at every width and group size") {
  for (const int dim : {64, 128, 256}) {
    const std::vector<float> x = make_rows(dim);
    for (const int bits : {2, 3, 4}) {
      const Codec codec(tq3_scheme(bits, dim));
      CHECK(codec.divides_first());
      const test::Coded expected = test::code_rows(*make_cpu_backend("scalar"), codec, x);
      CHECK(expected.refused == -1);
      for (const std::string& target : cpu_targets()) {
        CAPTURE(target);
        const test::Coded actual = test::code_rows(*make_cpu_backend(target), codec, x);
        CHECK(actual.codes == expected.codes);
        CHECK(std::memcmp(actual.norms.data(), expected.norms.data(), actual.norms.size() * sizeof(float)) == 0);
      }
    }
  }
}

TEST_CASE("native TQ3: corrected norms keep the length of a row, and the error is that of the table") {
  const std::vector<float> x = test::gaussian_rows(3, 4096, 128);
  for (const int bits : {2, 3, 4}) {
    const Codec codec(tq3_scheme(bits, 128));
    const test::Coded coded = test::code_rows(*make_cpu_backend(), codec, x);
    const ErrorStats stats = test::measure_error(x, coded.decoded, 128);
    CHECK(stats.norm_bias() == doctest::Approx(0).epsilon(1e-5));
    CHECK(stats.relative_mse() / codec.distortion() == doctest::Approx(1).epsilon(0.02));
  }
}

}  // namespace
}  // namespace tq
