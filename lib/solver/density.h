// The two densities that a codebook is made for, and their moments over a cell.
//
// A coordinate of a randomly rotated unit vector of R^d has the density (arXiv 2504.19874)
//   f(t) = Gamma(d/2) / (sqrt(pi) Gamma((d-1)/2)) (1 - t^2)^((d-3)/2)   on [-1, 1],
// a scaled Beta; it tends to N(0, 1/d). Both are symmetric, log-concave, and have standard
// deviation 1/sqrt(d).
#pragma once

#include <optional>
#include <string_view>

namespace tq {

enum class Density { kGaussian, kBeta };

/// "gaussian" or "beta".
std::string_view name_of(Density density);

/// The density of that name; nothing for any other name.
std::optional<Density> parse_density(std::string_view name);

inline constexpr int kMinSolverDim = 8;
inline constexpr int kMaxSolverDim = 1024;

/// True for dims 8..1024, and for dim 1 of the Gaussian, which is the standard normal.
bool is_solvable_dim(Density density, int dim);

/// Integrals over a cell of f(t), of (t - about) f(t) and of (t - about)^2 f(t). Taken about the
/// cell's own level they carry no cancellation, however narrow the cell is.
template <typename Real>
struct CellMoments {
  Real mass = 0;
  Real first = 0;
  Real second = 0;
};

/// A density in the scale of a unit vector (sigma = 1/sqrt(dim)), at the precision of Real. Defined
/// for double (Gauss-Legendre, 10 nodes a panel; solves) and long double (20 nodes; certifies). dim
/// must satisfy is_solvable_dim.
template <typename Real>
class UnitDensity {
 public:
  UnitDensity(Density density, int dim);

  /// 1/sqrt(dim).
  Real sigma() const { return sigma_; }

  /// The right end of the support: infinity, or 1.
  Real end() const;

  /// f(t), for t inside the support.
  Real at(Real t) const;

  /// Moments about `about` over [lo, hi], 0 <= lo <= hi; what lies beyond the support counts
  /// nothing. Relative error: a few units of rounding.
  CellMoments<Real> integrate(Real lo, Real hi, Real about) const;

 private:
  // Integrals run over u, with t = sigma u (Gaussian) or t = sin u (Beta). Then
  // f(t) dt = scale exp(exponent(t)) du is smooth up to the end of the Beta's support, where f
  // itself has a branch point for even dims.
  Real to_u(Real t) const;
  Real to_t(Real u) const;
  Real exponent(Real t) const;
  Real negligible_after(Real u) const;

  Density density_;
  Real dim_;
  Real sigma_;
  Real panel_;  // widest panel of the quadrature, in u
  Real scale_;
};

extern template class UnitDensity<double>;
extern template class UnitDensity<long double>;

}  // namespace tq
