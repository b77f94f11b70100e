// Sums over the cells of any quantizer, from the densities' moments where t >= 0.
#include "lib/solver/level_set.h"

#include <algorithm>
#include <cstddef>
#include <limits>

namespace tq {

std::vector<double> find_midpoints(std::span<const double> levels) {
  std::vector<double> edges;
  for (std::size_t i = 0; i + 1 < levels.size(); ++i) {
    edges.push_back((levels[i] + levels[i + 1]) / 2);
  }
  return edges;
}

LevelSet scale_levels(std::span<const double> levels, double factor) {
  LevelSet set;
  for (double level : levels) set.levels.push_back(factor * level);
  set.edges = find_midpoints(set.levels);
  return set;
}

// A cell's part below 0 is its mirror image, whose first moment has the other sign.
CellMoments<double> integrate_cell(const UnitDensity<double>& f, double lo, double hi,
                                   double about) {
  CellMoments<double> sum;
  if (hi > 0) sum = f.integrate(std::max(lo, 0.0), hi, about);
  if (lo < 0) {
    const CellMoments<double> mirrored = f.integrate(std::max(-hi, 0.0), -lo, -about);
    sum.mass += mirrored.mass;
    sum.first -= mirrored.first;
    sum.second += mirrored.second;
  }
  return sum;
}

CellMoments<double> integrate_code(const UnitDensity<double>& f, const LevelSet& set,
                                   std::size_t i) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const double lo = i == 0 ? -kInfinity : set.edges[i - 1];
  const double hi = i == set.edges.size() ? kInfinity : set.edges[i];
  return integrate_cell(f, lo, hi, set.levels[i]);
}

double set_distortion(const LevelSet& set, Density density, int dim) {
  const UnitDensity<double> f(density, dim);
  double sum = 0;
  for (std::size_t i = 0; i < set.levels.size(); ++i) sum += integrate_code(f, set, i).second;
  return sum * dim;
}

}  // namespace tq
