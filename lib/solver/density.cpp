// Composite Gauss-Legendre quadrature of a density and its first two moments. Differences of erf or
// of the incomplete Beta function lose their digits in narrow cells; a quadrature of the cell
// itself does not.
#include "lib/solver/density.h"

#include <algorithm>
#include <boost/math/quadrature/gauss.hpp>
#include <boost/math/special_functions/gamma.hpp>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>
#include <type_traits>

namespace tq {
namespace {

// A tail is dropped where f du has fallen by exp(-75) = 3e-33 since the cell's lower edge.
constexpr int kTailExponent = 75;

}  // namespace

std::string_view name_of(Density density) {
  return density == Density::kGaussian ? "gaussian" : "beta";
}

std::optional<Density> parse_density(std::string_view name) {
  for (Density density : {Density::kGaussian, Density::kBeta}) {
    if (name == name_of(density)) return density;
  }
  return std::nullopt;
}

bool is_solvable_dim(Density density, int dim) {
  if (density == Density::kGaussian && dim == 1) return true;
  return kMinSolverDim <= dim && dim <= kMaxSolverDim;
}

template <typename Real>
UnitDensity<Real>::UnitDensity(Density density, int dim)
    : density_(density), dim_(static_cast<Real>(dim)), sigma_(1 / std::sqrt(dim_)) {
  if (density == Density::kGaussian) {
    panel_ = Real(0.5);
    scale_ = std::numbers::inv_sqrtpi_v<Real> / std::numbers::sqrt2_v<Real>;
  } else {
    panel_ = sigma_ / 2;
    scale_ = std::numbers::inv_sqrtpi_v<Real> /
             boost::math::tgamma_delta_ratio((dim_ - 1) / 2, Real(0.5));
  }
}

template <typename Real>
Real UnitDensity<Real>::end() const {
  return density_ == Density::kGaussian ? std::numeric_limits<Real>::infinity() : Real(1);
}

template <typename Real>
Real UnitDensity<Real>::at(Real t) const {
  if (density_ == Density::kGaussian) return scale_ / sigma_ * std::exp(exponent(t));
  return scale_ * std::exp((dim_ - 3) / 2 * std::log1p(-t * t));
}

template <typename Real>
CellMoments<Real> UnitDensity<Real>::integrate(Real lo, Real hi, Real about) const {
  using Rule = boost::math::quadrature::gauss<Real, std::is_same_v<Real, double> ? 10 : 20>;
  CellMoments<Real> sum;
  if (!(lo < std::min(hi, end()))) return sum;
  const Real begin = to_u(lo);
  const Real stop = std::min(to_u(std::min(hi, end())), negligible_after(begin));
  const int panels = std::max(1, static_cast<int>(std::ceil((stop - begin) / panel_)));
  const Real half = (stop - begin) / (2 * static_cast<Real>(panels));
  auto add = [&](Real u, Real weight) {
    const Real t = to_t(u);
    const Real mass = weight * std::exp(exponent(t));
    const Real offset = t - about;
    sum.mass += mass;
    sum.first += mass * offset;
    sum.second += mass * offset * offset;
  };
  for (int panel = 0; panel < panels; ++panel) {
    const Real centre = begin + half * static_cast<Real>(2 * panel + 1);
    for (std::size_t i = 0; i < Rule::abscissa().size(); ++i) {
      const Real step = half * Rule::abscissa()[i];
      const Real weight = half * scale_ * Rule::weights()[i];
      add(centre - step, weight);
      add(centre + step, weight);
    }
  }
  return sum;
}

template <typename Real>
Real UnitDensity<Real>::to_u(Real t) const {
  return density_ == Density::kGaussian ? t / sigma_ : std::asin(t);
}

template <typename Real>
Real UnitDensity<Real>::to_t(Real u) const {
  return density_ == Density::kGaussian ? u * sigma_ : std::sin(u);
}

// log of f(t) dt/du, up to the constant: -u^2 / 2, or (d - 2) log(cos u).
template <typename Real>
Real UnitDensity<Real>::exponent(Real t) const {
  if (density_ == Density::kGaussian) return -(t * t) * dim_ / 2;
  return (dim_ - 2) / 2 * std::log1p(-t * t);
}

template <typename Real>
Real UnitDensity<Real>::negligible_after(Real u) const {
  if (density_ == Density::kGaussian) return std::sqrt(u * u + 2 * kTailExponent);
  return std::acos(std::cos(u) * std::exp(-kTailExponent / (dim_ - 2)));
}

template class UnitDensity<double>;
template class UnitDensity<long double>;

}  // namespace tq
