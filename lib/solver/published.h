// The sets of levels that published TurboQuant systems use, each from its definition. Most are
// Lloyd's iteration ended early, or run on another density than a rotated row has.
#pragma once

#include <string>
#include <vector>

#include "lib/solver/lloyd_max.h"

namespace tq {

/// Group sizes and bits of the native TQ3 checkpoints of turboquant-plus-vllm (varjoranta), whose
/// tables are frozen as "vj-d<group size>-b<bits>": a checkpoint does not carry its table.
inline constexpr int kVjGroupSizes[] = {64, 128, 256};
inline constexpr int kMinVjBits = 2;
inline constexpr int kMaxVjBits = 4;

/// Lloyd's iteration as it is usually run: edges at the 2^bits quantiles of the density, then
/// `sweeps` (>= 1) times levels = means of the cells, edges = midpoints of the levels. 2^bits
/// levels, exactly antisymmetric. One sweep gives the means of equally probable cells.
std::vector<double> run_lloyd(Density density, int dim, int bits, int sweeps);

/// The levels of turboquant-plus-vllm before they are rounded to float32: exactly 100 sweeps on
/// N(0, 1/dim), which is short of the fixed point from 3 bits on and far from it beyond 4. 2 bits
/// have no sweeps: the constants 0.453 and 1.51, over sqrt(dim).
std::vector<double> make_vj_levels(int dim, int bits);

/// The table "vj-d<group_size>-b<bits>": make_vj_levels in float32, with midpoints in double, and
/// what it costs under the Beta density of that dim.
SolvedCodebook make_vj_codebook(int group_size, int bits);

/// The levels of vLLM's turboquant_* caches (bits 3 and 4) before they are rounded to float32:
/// Lloyd's iteration on N(0, 1/dim) from 2^bits levels evenly spaced within 3.5 sigma, cells ending
/// at 10.5 sigma, moments by the trapezoidal rule on 201 points, until no level moves by 1e-10, at
/// most 200 sweeps. Within 0.002 sigma of the Lloyd-Max levels.
std::vector<double> make_vllm_levels(int dim, int bits);

struct PublishedSet {
  std::string id;           ///< "beta", "gaussian", "vj", "equal-probability", "gaussian-3-sigma"
  std::string description;  ///< what it is and who uses it, in a few words
  std::vector<double> levels;
};

/// All of them for a dim and bits (as for check_solvable), in the order of the ids above. dim 1,
/// the standard normal, has no "beta" and no "equal-probability".
std::vector<PublishedSet> list_published(int dim, int bits);

}  // namespace tq
