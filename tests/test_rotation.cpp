// Streams, matrices and rotations.
#include <doctest/doctest.h>

#include "lib/error.h"
#include "tests/codec_helpers.h"

namespace tq {
namespace {

std::string sign_hex(const std::vector<std::uint32_t>& signs) {
  std::vector<std::uint8_t> bytes(signs.size() / 8, 0);
  for (std::size_t i = 0; i < signs.size(); ++i) {
    if (signs[i] == 0) bytes[i / 8] = static_cast<std::uint8_t>(bytes[i / 8] | 1 << (i % 8));
  }
  return test::to_hex(bytes);
}

TEST_CASE("sign vectors of seed 42 are those of the published systems") {
  CHECK(sign_hex(draw_sign_bits(42, 64)) == "2242d73f177cab01");
  CHECK(sign_hex(draw_sign_bits(42, 64, 64)) == "f6ba4affe75f6b65");
  CHECK(sign_hex(draw_sign_bits(42, 128)) == "2242d73f177cab01f6ba4affe75f6b65");
  CHECK(sign_hex(draw_sign_bits(42, 128, 128)) == "07d021a85ce6402438d201c5cbbf2514");
  CHECK(sign_hex(draw_sign_bits(42, 256, 256)) == "26ceab17e2897d893dd3ac5836c9bc75027bf31b7ea93e9a3e53a5aaab248ab4");
}

TEST_CASE("draw_normals is torch.randn of the CPU generator") {
  const std::vector<double> x = draw_normals(42, 16384);
  const double expected[] = {1.926915, 1.487284, 0.900717, -2.105521};
  for (int i = 0; i < 4; ++i) CHECK(x[static_cast<std::size_t>(i)] == doctest::Approx(expected[i]).epsilon(2e-6));
  const std::vector<double> y = draw_normals(1042, 128 * 128);
  const double qjl[] = {.00346638, -.25272366, .33532891, -1.33470082};
  for (int i = 0; i < 4; ++i) CHECK(y[static_cast<std::size_t>(i)] == doctest::Approx(qjl[i]).epsilon(2e-5));
}

TEST_CASE("the last 16 normals are drawn again where the count is no multiple of 16") {
  const std::vector<double> whole = draw_normals(5, 32);
  const std::vector<double> part = draw_normals(5, 24);
  for (std::size_t i = 0; i < 8; ++i) CHECK(part[i] == whole[i]);
  CHECK(part[8] != whole[8]);
}

TEST_CASE("H_m is a Hadamard matrix") {
  for (const int m : {12, 20, 28, 36}) {
    const std::vector<float> h = paley_matrix(m);
    for (int a = 0; a < m; ++a) {
      for (int b = 0; b < m; ++b) {
        float dot = 0;
        for (int j = 0; j < m; ++j) dot += h[static_cast<std::size_t>(a * m + j)] * h[static_cast<std::size_t>(b * m + j)];
        REQUIRE(dot == (a == b ? static_cast<float>(m) : 0.0f));
      }
    }
  }
  CHECK(hadamard_order(128) == 1);
  CHECK(hadamard_order(96) == 12);
  CHECK(hadamard_order(80) == 20);
  CHECK(hadamard_order(112) == 28);
  CHECK(hadamard_order(576) == 36);
  CHECK(hadamard_order(100) == 0);
  CHECK(hadamard_order(24) == 12);
}

TEST_CASE("the Haar matrix of seed 42 is that of the published systems") {
  const std::vector<float> p = haar_matrix(42, 128);
  const float row[] = {.174885f, .120726f, .085467f, -.145567f};
  const float column[] = {.174885f, .175271f, -.062214f, .060480f};
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(p[i] == doctest::Approx(row[i]).epsilon(2e-5));
    CHECK(p[i * 128] == doctest::Approx(column[i]).epsilon(2e-5));
  }
}

TEST_CASE("every rotation is orthogonal, and back undoes forth") {
  for (const int dim : {8, 9, 12, 24, 64, 80, 96, 100, 112, 128, 144, 192, 320, 576, 1024}) {
    for (const RotationKind kind : {RotationKind::kRht2, RotationKind::kQr}) {
      if (kind == RotationKind::kQr && dim > 200) continue;
      const Rotation rotation(kind, 3, dim);
      const math::RotationView view = rotation.view();
      std::vector<float> x = test::gaussian_rows(11, 16, dim);
      x.resize(static_cast<std::size_t>(dim));
      std::vector<float> y = x;
      std::vector<float> scratch(math::kRotationScratch);
      math::mix(y.data(), view, view.signs1, false, scratch.data());
      for (int i = 0; i < dim; ++i) y[static_cast<std::size_t>(i)] = math::finish_rotation(y.data(), i, view, view.scale);
      double energy = 0, rotated = 0, moved = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        energy += static_cast<double>(x[i]) * static_cast<double>(x[i]);
        rotated += static_cast<double>(y[i]) * static_cast<double>(y[i]);
        moved += std::abs(static_cast<double>(x[i]) - static_cast<double>(y[i]));
      }
      CAPTURE(dim);
      CHECK(rotated == doctest::Approx(energy).epsilon(1e-5));
      CHECK(moved > 0.1 * dim);
      math::mix(y.data(), view, view.signs2, true, scratch.data());
      for (int i = 0; i < dim; ++i) y[static_cast<std::size_t>(i)] = math::finish_rotation_back(y.data(), i, view, view.scale);
      for (std::size_t i = 0; i < x.size(); ++i) REQUIRE(y[i] == doctest::Approx(x[i]).epsilon(1e-4));
    }
  }
}

TEST_CASE("a matrix from a file is checked") {
  std::vector<float> h = paley_matrix(12);
  h[5] = 0.5f;
  CHECK_THROWS_AS(Rotation(RotationKind::kRht2, 1, 96, h, "f"), Error);
  h[5] = -paley_matrix(12)[5];
  CHECK_THROWS_AS(Rotation(RotationKind::kRht2, 1, 96, h, "f"), Error);
  CHECK_THROWS_AS(Rotation(RotationKind::kRht2, 1, 128, paley_matrix(12), "f"), Error);
  CHECK_THROWS_AS(Rotation(RotationKind::kQr, 1, 32, std::vector<float>(1024, 0.1f), "f"), Error);
  CHECK_NOTHROW(Rotation(RotationKind::kRht2, 1, 96, paley_matrix(12), "f"));
}

}  // namespace
}  // namespace tq
