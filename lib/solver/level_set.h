// A scalar quantizer in double, with nothing assumed of it: the levels need not be symmetric, the
// edges need not be midpoints, and neither need fit a density. What the solver and the judge share.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "lib/solver/density.h"

namespace tq {

/// Levels and edges in the scale of a unit vector, both ascending. A value gets the code
/// #{edges < value}, and decodes to the level of that code.
struct LevelSet {
  std::vector<double> levels;
  std::vector<double> edges;  ///< one fewer than levels
};

/// The midpoints of neighbouring levels: the edges of a nearest-level encoder.
std::vector<double> find_midpoints(std::span<const double> levels);

/// The levels times `factor`, with their midpoints as edges.
LevelSet scale_levels(std::span<const double> levels, double factor);

/// Moments about `about` over [lo, hi], lo <= hi, of either sign or infinite.
CellMoments<double> integrate_cell(const UnitDensity<double>& f, double lo, double hi,
                                   double about);

/// Moments of the cell of code `i` about its level.
CellMoments<double> integrate_code(const UnitDensity<double>& f, const LevelSet& set,
                                   std::size_t i);

/// Exact relative MSE, dim * E (t - level)^2. Relative error about 1e-14. dim must satisfy
/// is_solvable_dim.
double set_distortion(const LevelSet& set, Density density, int dim);

}  // namespace tq
