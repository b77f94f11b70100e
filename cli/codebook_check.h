// tq codebook --check: the judgment of a file's levels, printed.
#pragma once

#include <optional>
#include <string>

#include "lib/error.h"
#include "lib/solver/density.h"

namespace tq::cli {

struct CheckOptions {
  std::string path;
  std::string scale;  ///< "sigma", "unit", or empty: not said
  std::optional<int> dim;
  std::optional<Density> density;
  bool json = false;
};

/// Prints the judgment. kGateFailed if the distortion exceeds Theorem 1's bound.
ExitCode check_codebook(const CheckOptions& options);

}  // namespace tq::cli
