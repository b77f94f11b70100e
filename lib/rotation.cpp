#include "lib/rotation.h"

#include <fmt/format.h>

#include <Eigen/QR>
#include <cmath>
#include <numbers>
#include <random>

#include "lib/error.h"

namespace tq {
namespace {

bool is_power_of_two(int n) { return n > 0 && (n & (n - 1)) == 0; }

/// Legendre symbol of a mod the odd prime q: 0, 1 or -1.
int residue_symbol(int a, int q) {
  a = ((a % q) + q) % q;
  if (a == 0) return 0;
  for (int x = 1; x < q; ++x) {
    if (x * x % q == a) return 1;
  }
  return -1;
}

/// The bordered Jacobsthal matrix [q+1][q+1]: zero diagonal, first row 1, first column `corner_sign`.
std::vector<int> conference_matrix(int q, int column_sign) {
  const int n = q + 1;
  std::vector<int> c(static_cast<std::size_t>(n * n), 0);
  for (int i = 1; i < n; ++i) {
    c[static_cast<std::size_t>(i)] = 1;
    c[static_cast<std::size_t>(i * n)] = column_sign;
    for (int j = 1; j < n; ++j) c[static_cast<std::size_t>(i * n + j)] = residue_symbol(i - j, q);
  }
  return c;
}

void check_orthogonal(const std::vector<float>& matrix, int order, float row_energy, const std::string& where) {
  using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Eigen::Map<const RowMajor> p(matrix.data(), order, order);
  const Eigen::MatrixXd product = p.cast<double>() * p.cast<double>().transpose() / row_energy;
  const double worst = (product - Eigen::MatrixXd::Identity(order, order)).cwiseAbs().maxCoeff();
  if (!product.allFinite() || worst > 1e-4) {
    throw Error(fmt::format("{}: the rotation matrix is not orthogonal (off by {:.2g}); the file is damaged or was not "
                            "written by tq", where, worst));
  }
}

}  // namespace

std::vector<std::uint32_t> draw_sign_bits(std::uint32_t seed, int count, int skip) {
  std::mt19937 generator(seed);
  generator.discard(static_cast<unsigned long long>(skip));
  std::vector<std::uint32_t> signs(static_cast<std::size_t>(count));
  for (std::uint32_t& sign : signs) sign = (generator() & 1u) != 0 ? 0u : 0x80000000u;
  return signs;
}

std::vector<double> draw_normals(std::uint32_t seed, int count) {
  std::mt19937 generator(seed);
  std::vector<double> x(static_cast<std::size_t>(count));
  const auto draw_uniform = [&] { return static_cast<double>(generator() & 0xffffffu) * 0x1p-24; };
  const auto transform_block = [&](std::size_t start) {
    for (std::size_t j = start; j < start + 8; ++j) {
      const double radius = std::sqrt(-2.0 * std::log(1.0 - x[j]));
      const double angle = 2.0 * std::numbers::pi * x[j + 8];
      x[j] = radius * std::cos(angle);
      x[j + 8] = radius * std::sin(angle);
    }
  };
  for (double& value : x) value = draw_uniform();
  for (std::size_t start = 0; start + 16 <= x.size(); start += 16) transform_block(start);
  if (x.size() % 16 != 0) {
    for (std::size_t i = x.size() - 16; i < x.size(); ++i) x[i] = draw_uniform();
    transform_block(x.size() - 16);
  }
  return x;
}

int hadamard_order(int dim) {
  if (is_power_of_two(dim)) return 1;
  for (const int m : {12, 20, 28, 36}) {
    if (dim % m == 0 && is_power_of_two(dim / m)) return m;
  }
  return 0;
}

std::vector<float> paley_matrix(int m) {
  std::vector<float> h(static_cast<std::size_t>(m * m));
  const auto at = [&](int i, int j) -> float& { return h[static_cast<std::size_t>(i * m + j)]; };
  if (m == 12 || m == 20) {
    // First construction, q = m - 1 = 3 mod 4: H = I + C with C skew.
    const std::vector<int> c = conference_matrix(m - 1, -1);
    for (int i = 0; i < m; ++i) {
      for (int j = 0; j < m; ++j) at(i, j) = static_cast<float>(c[static_cast<std::size_t>(i * m + j)] + (i == j));
    }
    return h;
  }
  // Second construction, q = m/2 - 1 = 1 mod 4, C symmetric: each entry of C becomes a 2 x 2 block, 0 -> [1 -1; -1 -1]
  // and +-1 -> +-[1 1; 1 -1].
  const int n = m / 2;
  const std::vector<int> c = conference_matrix(n - 1, 1);
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < m; ++j) {
      const int entry = c[static_cast<std::size_t>(i / 2 * n + j / 2)];
      const bool both_odd = i % 2 == 1 && j % 2 == 1;
      const bool any_odd = i % 2 == 1 || j % 2 == 1;
      at(i, j) = static_cast<float>(entry == 0 ? (any_odd ? -1 : 1) : (both_odd ? -entry : entry));
    }
  }
  return h;
}

std::vector<float> haar_matrix(std::uint32_t seed, int dim) {
  using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const std::vector<double> normals = draw_normals(seed, dim * dim);
  const Eigen::Map<const RowMajor> gaussian(normals.data(), dim, dim);
  const Eigen::HouseholderQR<Eigen::MatrixXd> qr(gaussian);
  Eigen::MatrixXd q = qr.householderQ();
  for (int j = 0; j < dim; ++j) {
    if (qr.matrixQR()(j, j) < 0.0) q.col(j) *= -1.0;
  }
  std::vector<float> matrix(static_cast<std::size_t>(dim) * static_cast<std::size_t>(dim));
  Eigen::Map<Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(matrix.data(), dim, dim) =
      q.cast<float>();
  return matrix;
}

bool is_dense(RotationKind kind, int dim) {
  if (kind == RotationKind::kIdentity) return false;
  return kind == RotationKind::kQr || hadamard_order(dim) == 0;
}

Rotation::Rotation(RotationKind kind, std::uint32_t seed, int dim, WithoutMatrix)
    : dim_(dim),
      mixing_(kind == RotationKind::kIdentity ? math::Mixing::kNone
              : is_dense(kind, dim)           ? math::Mixing::kDense
                                              : math::Mixing::kHadamard),
      signs1_(static_cast<std::size_t>(dim), 0u),
      signs2_(static_cast<std::size_t>(dim), 0u) {
  if (mixing_ != math::Mixing::kHadamard) return;
  m_ = hadamard_order(dim);
  signs1_ = draw_sign_bits(seed, dim);
  if (kind == RotationKind::kRht2) signs2_ = draw_sign_bits(seed, dim, dim);
}

Rotation::Rotation(RotationKind kind, std::uint32_t seed, int dim) : Rotation(kind, seed, dim, WithoutMatrix{}) {
  if (mixing_ == math::Mixing::kDense) matrix_ = haar_matrix(seed, dim);
  if (m_ > 1) matrix_ = paley_matrix(m_);
}

Rotation::Rotation(RotationKind kind, std::uint32_t seed, int dim, std::vector<float> matrix, const std::string& where)
    : Rotation(kind, seed, dim, WithoutMatrix{}) {
  matrix_ = std::move(matrix);
  const auto order = static_cast<std::size_t>(matrix_order());
  if (matrix_.size() != order * order) {
    throw Error(fmt::format("{}: the rotation matrix has {} values, and {} x {} are needed", where, matrix_.size(),
                            order, order));
  }
  if (matrix_.empty()) return;
  const bool dense = mixing_ == math::Mixing::kDense;
  for (const float entry : matrix_) {
    if (!dense && entry != 1.0f && entry != -1.0f) {
      throw Error(fmt::format("{}: the Hadamard factor holds {}, and only 1 and -1 can stand there", where, entry));
    }
  }
  check_orthogonal(matrix_, static_cast<int>(order), dense ? 1.0f : static_cast<float>(m_), where);
}

int Rotation::matrix_order() const {
  if (mixing_ == math::Mixing::kDense) return dim_;
  return m_ > 1 ? m_ : 0;
}

math::RotationView Rotation::view() const {
  math::RotationView view{};
  view.signs1 = signs1_.data();
  view.signs2 = signs2_.data();
  view.matrix = matrix_.empty() ? nullptr : matrix_.data();
  view.dim = dim_;
  view.m = m_;
  view.scale = mixing_ == math::Mixing::kHadamard ? static_cast<float>(1.0 / std::sqrt(dim_)) : 1.0f;
  view.mixing = mixing_;
  return view;
}

}  // namespace tq
