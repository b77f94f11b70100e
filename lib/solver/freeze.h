// The text of the frozen tables in codebooks/, made from solved codebooks. codebooks/README.md
// describes the files.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "lib/solver/lloyd_max.h"

namespace tq {

/// The text of one file: codebooks of one density and dim, in the order given. Levels are written
/// as float32 hex floats, the positive half only; distortion and entropy to 9 digits, so that a
/// unit of rounding does not change the text.
std::string format_frozen_table(std::span<const SolvedCodebook> books);

/// The same for the compatibility tables of one of kVjGroupSizes (lib/solver/published.h).
std::string format_vj_table(int group_size);

/// Solves the shipped set and returns it as (file name, text): gaussian.inc (sigma = 1),
/// beta_d32.inc ... in the order of kShippedDims, vj_d64.inc ... in that of kVjGroupSizes. Equal,
/// byte for byte, to the files in codebooks/.
std::vector<std::pair<std::string, std::string>> format_shipped_set();

}  // namespace tq
