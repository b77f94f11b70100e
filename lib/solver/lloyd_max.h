// The Lloyd-Max codebook of a density: the 2^bits levels with the least mean squared error.
//
// It is the fixed point at which each level is the mean of its cell and each edge the midpoint of
// two levels. Lloyd's own iteration needs more than 100,000 sweeps at 8 bits; here Newton's method
// solves c_i - E[t | cell i] = 0, whose Jacobian is tridiagonal, in about ten steps. For a
// log-concave density the fixed point is unique (Kieffer 1983).
#pragma once

#include <vector>

#include "lib/solver/density.h"

namespace tq {

/// Raised whenever a change to the solver changes a bit of a frozen table.
inline constexpr int kSolverVersion = 1;

/// Dims whose Beta tables are frozen in codebooks/, at 1..8 bits; the Gaussian is frozen at sigma
/// = 1.
inline constexpr int kShippedDims[] = {32, 48, 64, 80, 96, 112, 128, 160, 192, 256, 320, 512, 576};

struct SolvedCodebook {
  Density density;
  int dim;
  int bits;
  /// 2^bits, ascending, exactly antisymmetric, in the scale of a unit vector (sigma = 1/sqrt(dim)).
  std::vector<double> levels;
  /// 2^bits - 1 midpoints of the levels; the middle one is exactly 0.
  std::vector<double> edges;
  /// D = dim * E (t - level)^2: the relative MSE of a vector whose coordinates have the density.
  double distortion;
  /// Entropy of a code, in bits.
  double entropy_bits;
  /// The largest |level - E[t | cell]| / sigma, from a long double quadrature of the returned
  /// levels and edges.
  double centroid_violation;
};

/// Throws UsageError unless bits is 1..8 and dim is 8..1024, or 1 for the standard normal.
void check_solvable(Density density, int dim, int bits);

/// Solves one codebook. A level is within 2e-13 of the true one, relative (measured against a long
/// double solution). Ranges: check_solvable. Throws Error should the violation exceed 1e-12.
SolvedCodebook solve_codebook(Density density, int dim, int bits);

/// Fills distortion, entropy_bits and centroid_violation from the other fields, whose levels and
/// edges must be exactly antisymmetric, by a long double quadrature.
void certify(SolvedCodebook& book);

/// Levels of the Lloyd-Max codebook of N(0, 1/dim) cut off at +-`sigmas` of its standard
/// deviations, which is what an integration over that range solves. dim and bits as above.
std::vector<double> solve_cut_gaussian(int dim, int bits, double sigmas);

}  // namespace tq
