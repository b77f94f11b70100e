// Codebooks as text files: what `tq codebook` prints for other programs, and what `tq codebook
// --check` reads. Three forms are read, told apart by their first character and their keys:
//
//   tq-json      an object with levels, and optionally edges, dim, bits, density, distortion: what
//                format_tq_json writes. Scale of a unit vector, sigma = 1/sqrt(dim).
//   0xsero-json  an object with centroids, and optionally boundaries (2^bits + 1, from -1 to 1), d,
//                bits, mse_total, mse_per_coord: the codebook files of turboquant by 0xSero, for
//                the Beta density. Scale of a unit vector.
//   list         numbers separated by white space or commas, or a JSON array of numbers.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "lib/solver/judge.h"
#include "lib/solver/level_set.h"
#include "lib/solver/lloyd_max.h"

namespace tq {

/// What a file is to be read with, where it does not say so itself.
struct TableHints {
  std::optional<int> dim;          ///< needed for a list; must not contradict a file
  std::optional<Density> density;  ///< what to judge under; else the file's own, else Beta
  std::optional<bool> in_sigma;    ///< only for a list: in units of sigma, or (false) of the vector
};

struct TableFile {
  std::string format;  ///< "tq-json", "0xsero-json" or "list"
  Density density;
  int dim;
  LevelSet set;    ///< in the scale of a unit vector; midpoints where the file gives no edges
  bool has_edges;  ///< the file gives them
  /// The D that the file states, if it states one for this density.
  std::optional<double> claimed_distortion;
};

/// Reads a file of at most 1 MiB. Throws Error, which begins with the path, for a file that is
/// none of the forms, that check_levels refuses, whose own bits or dim
/// contradict its levels or the hints, or whose dim is unknown or not solvable.
TableFile read_table(const std::string& path, const TableHints& hints);

/// A codebook in double, for printing.
struct NamedSolution {
  std::string id;
  SolvedCodebook book;
};

/// The solution behind an id that find_codebook (lib/codebook.h) knows. Throws Error as that does.
NamedSolution solve_named(std::string_view id);

/// What a codebook gives away on rotated rows, whose coordinates have the Beta density whatever the
/// levels were made for. Nothing for dim 1.
std::optional<Cost> find_sphere_cost(const SolvedCodebook& book);

/// An object with density, dim, bits, levels, edges, distortion, entropy_bits, theorem_bound,
/// shannon_ratio (D over 4^-bits), id, centroid_violation, and of find_sphere_cost
/// sphere_distortion, ratio_to_optimum, bits_lost (null for dim 1). Doubles, to the last digit.
std::string format_tq_json(const NamedSolution& named);

/// The object of 0xSero's files: centroids, boundaries, mse_per_coord, mse_total, d, bits. Throws
/// UsageError if an edge lies outside of -1..1, as it may for a Gaussian of small dim.
std::string format_0xsero_json(const NamedSolution& named);

/// The float32 levels and edges, as an encoder uses them, as two C arrays.
std::string format_c(const NamedSolution& named);

}  // namespace tq
