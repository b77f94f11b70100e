// Newton's method for the Lloyd-Max codebook. By symmetry only the positive half is solved: levels
// c_0 < ... < c_{m-1}, m = 2^(bits-1), edges 0, the midpoints, and the end of the support.
#include "lib/solver/lloyd_max.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/math/distributions/beta.hpp>
#include <boost/math/distributions/normal.hpp>
#include <cmath>
#include <cstddef>
#include <functional>
#include <utility>

#include "lib/error.h"
#include "lib/solver/level_set.h"

namespace tq {
namespace {

constexpr double kMaxViolation = 1e-12;  // of sigma

// F(c) and its Jacobian at one set of levels.
struct NewtonSystem {
  std::vector<double> residual;  // F_i = c_i - E[t | cell i]
  std::vector<double> below;     // dF_i / dc_{i-1}
  std::vector<double> diagonal;  // dF_i / dc_i
  std::vector<double> above;     // dF_i / dc_{i+1}
  double worst = 0;              // max |F_i|
};

// Panter and Dite's point density: levels at high rate are spread as f^(1/3), which is N(0, 3
// sigma^2) or again a Beta. A Gaussian may be cut at `end`.
std::vector<double> guess_levels(Density density, int dim, std::size_t count, double end) {
  const boost::math::normal normal(0.0, std::sqrt(3.0 / dim));
  const double shape = (dim - 3) / 6.0 + 1;
  const double mass = density == Density::kGaussian ? cdf(normal, end) - 0.5 : 0.5;
  std::vector<double> levels(count);
  for (std::size_t i = 0; i < count; ++i) {
    const double p = 0.5 + mass * (static_cast<double>(i) + 0.5) / static_cast<double>(count);
    if (density == Density::kGaussian) {
      levels[i] = quantile(normal, p);
    } else {
      levels[i] = 2 * quantile(boost::math::beta_distribution<double>(shape, shape), p) - 1;
    }
  }
  return levels;
}

bool is_ascending_inside(const std::vector<double>& levels, double end) {
  return levels.front() > 0 && levels.back() < end &&
         std::adjacent_find(levels.begin(), levels.end(), std::greater_equal<>{}) == levels.end();
}

// d E[t | a, b] / db = f(b) (b - E) / mass, and the same with a. An edge moves by half of what
// either level moves; the edge at 0 and the end of the support do not move.
NewtonSystem build_system(const UnitDensity<double>& f, const std::vector<double>& c, double end) {
  const std::size_t count = c.size();
  NewtonSystem system{std::vector<double>(count), std::vector<double>(count),
                      std::vector<double>(count), std::vector<double>(count)};
  for (std::size_t i = 0; i < count; ++i) {
    const double lo = i == 0 ? 0 : (c[i - 1] + c[i]) / 2;
    const double hi = i + 1 == count ? end : (c[i] + c[i + 1]) / 2;
    const CellMoments<double> cell = f.integrate(lo, hi, c[i]);
    const double residual = -cell.first / cell.mass;
    const double mean = c[i] - residual;
    system.residual[i] = residual;
    if (i > 0) system.below[i] = -f.at(lo) * (mean - lo) / cell.mass / 2;
    if (i + 1 < count) system.above[i] = -f.at(hi) * (hi - mean) / cell.mass / 2;
    system.diagonal[i] = 1 + system.below[i] + system.above[i];
    system.worst = std::max(system.worst, std::abs(residual));
  }
  return system;
}

// Solves J x = F. J is diagonally dominant where f is log-concave, so that no pivoting is needed.
std::vector<double> solve_tridiagonal(NewtonSystem system) {
  std::vector<double>& x = system.residual;
  for (std::size_t i = 1; i < x.size(); ++i) {
    const double factor = system.below[i] / system.diagonal[i - 1];
    system.diagonal[i] -= factor * system.above[i - 1];
    x[i] -= factor * x[i - 1];
  }
  x.back() /= system.diagonal.back();
  for (std::size_t i = x.size() - 1; i-- > 0;) {
    x[i] = (x[i] - system.above[i] * x[i + 1]) / system.diagonal[i];
  }
  return std::move(x);
}

// Newton steps, halved until the levels stay ascending and max |F| falls; ends when no step lowers
// it, that is, when nothing but rounding is left.
std::vector<double> solve_positive_half(const UnitDensity<double>& f, std::vector<double> levels,
                                        double end) {
  NewtonSystem system = build_system(f, levels, end);
  bool improved = true;
  while (improved) {
    improved = false;
    const std::vector<double> step = solve_tridiagonal(system);
    for (double damping = 1; damping > 1e-3 && !improved; damping /= 2) {
      std::vector<double> trial = levels;
      for (std::size_t i = 0; i < trial.size(); ++i) trial[i] -= damping * step[i];
      if (!is_ascending_inside(trial, end)) continue;
      NewtonSystem next = build_system(f, trial, end);
      improved = next.worst < system.worst;
      if (improved) {
        levels = std::move(trial);
        system = std::move(next);
      }
    }
  }
  return levels;
}

// The positive half of the levels over `scale`, and their mirror image.
std::vector<double> expand_half(const std::vector<double>& positive, double scale) {
  const std::size_t half = positive.size();
  std::vector<double> levels(2 * half);
  for (std::size_t i = 0; i < half; ++i) {
    levels[half + i] = positive[i] / scale;
    levels[half - 1 - i] = -levels[half + i];
  }
  return levels;
}

}  // namespace

void check_solvable(Density density, int dim, int bits) {
  if (bits < 1 || bits > 8) {
    throw UsageError(fmt::format("codebook bits {}: must be 1..8", bits));
  }
  if (!is_solvable_dim(density, dim)) {
    throw UsageError(fmt::format("{} codebook dim {}: must be {}..{}{}", name_of(density), dim,
                                 kMinSolverDim, kMaxSolverDim,
                                 density == Density::kGaussian ? ", or 1" : ""));
  }
}

void certify(SolvedCodebook& book) {
  const UnitDensity<long double> f(book.density, book.dim);
  const std::size_t half = book.levels.size() / 2;
  long double distortion = 0;
  long double entropy = 0;
  long double worst = 0;
  for (std::size_t i = half; i < book.levels.size(); ++i) {
    const long double hi = i < book.edges.size() ? book.edges[i] : f.end();
    const CellMoments<long double> cell = f.integrate(book.edges[i - 1], hi, book.levels[i]);
    distortion += 2 * cell.second;
    entropy -= 2 * cell.mass * std::log2(cell.mass);
    worst = std::max(worst, std::abs(cell.first / cell.mass) / f.sigma());
  }
  book.distortion = static_cast<double>(distortion * book.dim);
  book.entropy_bits = static_cast<double>(entropy);
  book.centroid_violation = static_cast<double>(worst);
}

SolvedCodebook solve_codebook(Density density, int dim, int bits) {
  check_solvable(density, dim, bits);
  // Every Gaussian codebook is the standard normal's, scaled.
  const int solved_dim = density == Density::kGaussian ? 1 : dim;
  const std::size_t half = std::size_t{1} << (bits - 1);
  const UnitDensity<double> f(density, solved_dim);
  const std::vector<double> positive =
      solve_positive_half(f, guess_levels(density, solved_dim, half, f.end()), f.end());
  const double scale = density == Density::kGaussian ? std::sqrt(static_cast<double>(dim)) : 1;

  SolvedCodebook book{density, dim, bits, expand_half(positive, scale), {}, 0, 0, 0};
  book.edges = find_midpoints(book.levels);
  certify(book);
  if (!(book.centroid_violation <= kMaxViolation)) {
    throw Error(
        fmt::format("{} codebook dim {} bits {}: centroid violation {:.1e} exceeds {:.0e}; "
                    "report this as a defect of the solver",
                    name_of(density), dim, bits, book.centroid_violation, kMaxViolation));
  }
  return book;
}

std::vector<double> solve_cut_gaussian(int dim, int bits, double sigmas) {
  check_solvable(Density::kGaussian, dim, bits);
  const UnitDensity<double> f(Density::kGaussian, 1);
  const std::size_t half = std::size_t{1} << (bits - 1);
  return expand_half(
      solve_positive_half(f, guess_levels(Density::kGaussian, 1, half, sigmas), sigmas),
      std::sqrt(static_cast<double>(dim)));
}

}  // namespace tq
