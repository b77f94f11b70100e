// What a set of levels is worth: its exact distortion beside the optimum and Theorem 1's bound,
// what it would be worth at another scale, and which published set it is.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "lib/codebook.h"
#include "lib/solver/level_set.h"
#include "lib/solver/published.h"

namespace tq {

/// Where a set is said to meet a condition: far above the rounding of a float32 table, far below
/// what matters. Over sigma.
inline constexpr double kJudgeTolerance = 1e-6;
/// How near a published set must be to be recognized. Over sigma.
inline constexpr double kRecognizeTolerance = 1e-4;

/// A distortion beside the optimum: that of the Lloyd-Max codebook of the same bits.
struct Cost {
  double distortion = 0;
  double optimum = 0;

  /// distortion / optimum; never below 1, which only rounding could cause.
  double ratio() const;
  /// 0.5 log2 of that: how many bits a coordinate fewer an optimal quantizer needs for the same
  /// distortion, where distortion falls as 4^-bits.
  double bits_lost() const;
};

/// The cost of a set of 2^b levels. Throws as judge_levels.
Cost find_cost(const LevelSet& set, Density density, int dim);

struct Judgment {
  Density density{};
  int dim = 0;
  int bits = 0;
  double asymmetry = 0;            ///< largest |x[i] + x[n-1-i]| of levels and edges, over sigma
  double centroid_violation = 0;   ///< largest |level - E[t | cell]| over sigma, of cells with mass
  int empty_cells = 0;             ///< codes that never occur: their probability is 0 in double
  double edge_deviation = 0;       ///< largest |edge - midpoint| over sigma
  Cost cost{};                     ///< exact distortion, with the edges of the set
  double midpoint_distortion = 0;  ///< the same with midpoints as edges
  double best_scale = 1;           ///< the factor on the levels that gives the least D
  double best_scale_distortion = 0;        ///< that D, with midpoints; at most midpoint_distortion
  std::vector<PublishedSet> recognized{};  ///< published sets within kRecognizeTolerance

  bool is_symmetric() const { return asymmetry <= kJudgeTolerance; }
  bool has_midpoint_edges() const { return edge_deviation <= kJudgeTolerance; }
  /// Both conditions of Lloyd-Max.
  bool is_fixed_point() const {
    return has_midpoint_edges() && empty_cells == 0 && centroid_violation <= kJudgeTolerance;
  }
  bool exceeds_bound() const { return cost.distortion > theorem1_bound(bits); }
  /// True if the scale is what is wrong: a factor more than 1 % away from 1 brings the levels
  /// within 1 % of the optimum, and without it they are not.
  bool is_scaled_optimum() const;
};

/// Judges a set of 2^b levels, b = 1..8, in the scale of a unit vector. Levels and edges must be
/// finite, strictly ascending and within the range of float32; check_levels sees to that. Throws
/// UsageError for a dim that check_solvable refuses.
Judgment judge_levels(const LevelSet& set, Density density, int dim);

/// Throws Error, beginning with `where`, unless the set meets the conditions of judge_levels.
void check_levels(const LevelSet& set, const std::string& where);

/// The judgment in sentences, the bound first. `claimed` is the distortion that the set's maker
/// states; more than 0.1 % off is worth a sentence.
std::vector<std::string> describe_judgment(const Judgment& judgment,
                                           std::optional<double> claimed = {});

}  // namespace tq
