// TurboQuant_prod: the layout of the sketch, and the estimator of inner products that it makes unbiased.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/codec_helpers.h"

namespace tq {
namespace {

Scheme sketch_scheme(int bits, int dim) {
  Scheme scheme = default_scheme(bits, dim);
  scheme.qjl = 1042;
  return scheme;
}

TEST_CASE("the sketch of the golden vector: codes, signs and residual norm as torch computes them") {
  // x[i] = ((131 i + 17) mod 257 - 128) / 128; Pi Haar of seed 42, 0S's 2-bit codebook, S = randn of seed 1042.
  std::vector<float> x(128);
  for (int i = 0; i < 128; ++i) x[static_cast<std::size_t>(i)] = static_cast<float>((131 * i + 17) % 257 - 128) / 128.0f;
  Scheme scheme = default_scheme(2, 128, RotationKind::kQr);
  scheme.qjl = 1042;
  const Codebook book = make_codebook(std::vector<float>{-.1330402f, -.0399909f, .0399909f, .1330402f});
  const Codec codec(scheme, book, haar_matrix(42, 128), make_sketch_matrix(1042, 128), "test");
  for (const std::string& target : cpu_targets()) {
    CodedRows coded;
    REQUIRE(encode_rows(*make_cpu_backend(target), codec, DType::kF32, x.data(), 1, coded) == -1);
    CHECK(test::to_hex(coded.codes) == "bda09389b29a1aee165a254a8e594666ba85917101664c5c9945f5d41553fa9a");
    CHECK(test::to_hex(coded.signs) == "ca2c3c6b132ca004d8f51440dd2847d4");
    CHECK(coded.residual_norms[0] == doctest::Approx(2.0956886).epsilon(1e-5));
  }
}

/// Regression of <q, k_hat> on <q, k> through the origin, over one random query a key.
struct Regression {
  double slope = 0;
  double standard_error = 0;
  double distortion = 0;  ///< dim / |q|^2 E (<q, k> - <q, k_hat>)^2 for unit keys
};

Regression regress(const std::vector<float>& k, const std::vector<float>& k_hat, int dim) {
  const auto width = static_cast<std::size_t>(dim);
  const std::vector<float> q = test::gaussian_rows(777, static_cast<std::int64_t>(k.size() / width), dim);
  double xx = 0, xy = 0, yy = 0, error = 0;
  const auto rows = static_cast<double>(k.size() / width);
  for (std::size_t row = 0; row < k.size(); row += width) {
    double x = 0, y = 0, qq = 0, kk = 0;
    for (std::size_t i = row; i < row + width; ++i) {
      x += static_cast<double>(q[i]) * static_cast<double>(k[i]);
      y += static_cast<double>(q[i]) * static_cast<double>(k_hat[i]);
      qq += static_cast<double>(q[i]) * static_cast<double>(q[i]);
      kk += static_cast<double>(k[i]) * static_cast<double>(k[i]);
    }
    xx += x * x;
    xy += x * y;
    yy += y * y;
    error += (x - y) * (x - y) * dim / (qq * kk) / rows;
  }
  const double slope = xy / xx;
  return {slope, std::sqrt((yy - slope * xy) / (rows - 1) / xx), error};
}

TEST_CASE("the estimator's slope is 1, the codes' alone is not, and the variance is within Theorem 2") {
  constexpr int kDim = 64;
  const std::int64_t rows = test::reduced(100000, 8000);
  const double room = test::reduced(1, 0) == 1 ? 0.01 : 0.04;
  const auto backend = make_cpu_backend();
  const std::vector<float> k = test::gaussian_rows(31, rows, kDim);
  for (const int bits : {1, 2, 3}) {  // of the codes; with the sketch one more
    const Codec codec(sketch_scheme(bits, kDim));
    CodedRows coded;
    REQUIRE(encode_rows(*backend, codec, DType::kF32, k.data(), rows, coded) == -1);
    std::vector<float> k_hat(k.size()), k_tilde(k.size());
    decode_rows(*backend, codec, coded, Decode::kRow, DType::kF32, k_hat.data());
    decode_rows(*backend, codec, coded, Decode::kInnerProduct, DType::kF32, k_tilde.data());

    const Regression with = regress(k, k_tilde, kDim);
    CAPTURE(bits);
    CHECK(4 * with.standard_error < room);
    CHECK(std::abs(with.slope - 1) < 4 * with.standard_error);
    // Theorem 2, and what it is more exactly: the variance of the sketch is (pi/2 |r|^2 |q|^2 - <q, r>^2) / d.
    const double codes_mse = codec.distortion();
    CHECK(with.distortion < std::sqrt(3.0) * M_PI * M_PI * std::pow(4.0, -(bits + 1)));
    CHECK(with.distortion == doctest::Approx((M_PI / 2 - 1.0 / kDim) * codes_mse).epsilon(0.04));

    const Regression without = regress(k, k_hat, kDim);
    CHECK(without.slope == doctest::Approx(1 - codes_mse).epsilon(0.01));
    CHECK(std::abs(without.slope - 1) > 0.8 * codes_mse);  // the control: this test sees a missing sketch
  }
}

TEST_CASE("a sketch scaled eleven times too small is seen in the slope") {
  constexpr int kDim = 128;
  const Codec codec(sketch_scheme(2, kDim));
  const auto backend = make_cpu_backend();
  const std::vector<float> k = test::gaussian_rows(8, 2000, kDim);
  CodedRows coded;
  REQUIRE(encode_rows(*backend, codec, DType::kF32, k.data(), 2000, coded) == -1);
  for (float& norm : coded.residual_norms) norm /= std::sqrt(128.0f);
  std::vector<float> k_tilde(k.size());
  decode_rows(*backend, codec, coded, Decode::kInnerProduct, DType::kF32, k_tilde.data());
  const Regression broken = regress(k, k_tilde, kDim);
  CHECK(broken.slope < 0.95);
  CHECK(broken.slope > 0.80);
}

TEST_CASE("every CPU target writes the same sketch") {
  for (const int dim : {8, 9, 64, 100}) {
    const Codec codec(sketch_scheme(2, dim));
    const std::vector<float> k = test::gaussian_rows(3, 37, dim);
    CodedRows first;
    std::vector<float> first_rows;
    for (const std::string& target : cpu_targets()) {
      const auto backend = make_cpu_backend(target);
      CodedRows coded;
      REQUIRE(encode_rows(*backend, codec, DType::kF32, k.data(), 37, coded) == -1);
      std::vector<float> rows(k.size());
      decode_rows(*backend, codec, coded, Decode::kInnerProduct, DType::kF32, rows.data());
      if (first_rows.empty()) {
        first = coded;
        first_rows = rows;
      }
      CHECK(coded.signs == first.signs);
      CHECK(coded.residual_norms == first.residual_norms);
      CHECK(rows == first_rows);
    }
  }
}

}  // namespace
}  // namespace tq
