// By symmetry everything is done on the positive half, as in the solver.
#include "lib/solver/published.h"

#include <algorithm>
#include <boost/math/distributions/beta.hpp>
#include <boost/math/distributions/normal.hpp>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <utility>

#include "lib/solver/level_set.h"

namespace tq {
namespace {

constexpr int kVjSweeps = 100;
constexpr double kVjTwoBits[] = {0.453, 1.51};
constexpr double kCutSigmas = 3;
constexpr double kVllmSigmas = 3.5;
constexpr int kVllmSweeps = 200;
constexpr double kVllmTolerance = 1e-10;
constexpr int kTrapezoids = 200;

double find_quantile(Density density, int dim, double p) {
  if (density == Density::kGaussian) {
    return quantile(boost::math::normal(0.0, 1.0), p) / std::sqrt(static_cast<double>(dim));
  }
  const double shape = (dim - 1) / 2.0;
  return 2 * quantile(boost::math::beta_distribution<double>(shape, shape), p) - 1;
}

/// Mean of N(0, sigma^2) in a..b by the trapezoidal rule; `otherwise` where it finds no mass.
double find_trapezoid_mean(double sigma, double a, double b, double otherwise) {
  const double step = (b - a) / kTrapezoids;
  double mass = 0;
  double first = 0;
  for (int i = 0; i <= kTrapezoids; ++i) {
    const double x = a + i * step;
    const double weight = i == 0 || i == kTrapezoids ? 0.5 : 1.0;
    const double density = boost::math::pdf(boost::math::normal(0.0, sigma), x);
    mass += weight * density;
    first += weight * density * x;
  }
  return mass * step > 1e-15 ? first / mass : otherwise;
}

std::vector<double> mirror(std::span<const double> positive) {
  std::vector<double> levels;
  for (std::size_t i = positive.size(); i-- > 0;) levels.push_back(-positive[i]);
  levels.insert(levels.end(), positive.begin(), positive.end());
  return levels;
}

}  // namespace

std::vector<double> run_lloyd(Density density, int dim, int bits, int sweeps) {
  check_solvable(density, dim, bits);
  const UnitDensity<double> f(density, dim);
  const std::size_t half = std::size_t{1} << (bits - 1);
  std::vector<double> edges(half + 1, 0.0);  // edges[0] is the middle, 0
  for (std::size_t i = 1; i < half; ++i) {
    const double p = 0.5 + static_cast<double>(i) / (2 * static_cast<double>(half));
    edges[i] = find_quantile(density, dim, p);
  }
  edges[half] = f.end();

  std::vector<double> levels(half);
  for (int sweep = 0; sweep < sweeps; ++sweep) {
    for (std::size_t i = 0; i < half; ++i) {
      const CellMoments<double> cell = f.integrate(edges[i], edges[i + 1], edges[i]);
      levels[i] = edges[i] + cell.first / cell.mass;
    }
    for (std::size_t i = 1; i < half; ++i) edges[i] = (levels[i - 1] + levels[i]) / 2;
  }
  return mirror(levels);
}

std::vector<double> make_vj_levels(int dim, int bits) {
  if (bits != 2) return run_lloyd(Density::kGaussian, dim, bits, kVjSweeps);
  std::vector<double> positive;
  for (double level : kVjTwoBits) positive.push_back(level / std::sqrt(static_cast<double>(dim)));
  return mirror(positive);
}

std::vector<double> make_vllm_levels(int dim, int bits) {
  check_solvable(Density::kGaussian, dim, bits);
  const double sigma = 1 / std::sqrt(static_cast<double>(dim));
  const double end = kVllmSigmas * sigma;
  const std::size_t count = std::size_t{1} << bits;
  std::vector<double> levels(count);
  for (std::size_t i = 0; i < count; ++i) {
    levels[i] = end * ((2 * static_cast<double>(i) + 1) / static_cast<double>(count) - 1);
  }
  for (int sweep = 0; sweep < kVllmSweeps; ++sweep) {
    std::vector<double> next(count);
    double largest_step = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const double a = i == 0 ? -3 * end : (levels[i - 1] + levels[i]) / 2;
      const double b = i + 1 == count ? 3 * end : (levels[i] + levels[i + 1]) / 2;
      next[i] = find_trapezoid_mean(sigma, a, b, levels[i]);
      largest_step = std::max(largest_step, std::abs(next[i] - levels[i]));
    }
    if (largest_step < kVllmTolerance) break;
    levels = std::move(next);
  }
  return levels;
}

SolvedCodebook make_vj_codebook(int group_size, int bits) {
  SolvedCodebook book{Density::kBeta, group_size, bits, {}, {}, 0, 0, 0};
  for (double level : make_vj_levels(group_size, bits)) {
    book.levels.push_back(static_cast<double>(static_cast<float>(level)));
  }
  book.edges = find_midpoints(book.levels);
  certify(book);
  return book;
}

std::vector<PublishedSet> list_published(int dim, int bits) {
  std::vector<PublishedSet> sets;
  const bool has_beta = is_solvable_dim(Density::kBeta, dim);
  if (has_beta) {
    sets.push_back({"beta", "Lloyd-Max of the exact density on the sphere",
                    solve_codebook(Density::kBeta, dim, bits).levels});
  }
  sets.push_back({"gaussian", "Lloyd-Max of N(0, 1/dim)",
                  solve_codebook(Density::kGaussian, dim, bits).levels});
  sets.push_back({"vj",
                  bits == 2 ? "the constants of turboquant-plus-vllm (varjoranta)"
                            : "100 sweeps of Lloyd's iteration, turboquant-plus-vllm (varjoranta)",
                  make_vj_levels(dim, bits)});
  if (has_beta) {
    sets.push_back({"equal-probability",
                    "means of equally probable cells, turboquant (back2matching)",
                    run_lloyd(Density::kBeta, dim, bits, 1)});
  }
  sets.push_back({"gaussian-3-sigma",
                  "Lloyd-Max of a Gaussian cut at 3 sigma, turboquant-vllm (Alberto-Codes)",
                  solve_cut_gaussian(dim, bits, kCutSigmas)});
  return sets;
}

}  // namespace tq
