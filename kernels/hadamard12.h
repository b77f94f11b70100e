// H_12 as tq writes it (paley_matrix(12) in lib/rotation.h), known to the compiler: a kernel that is made for it has no table to read.
#pragma once

#include "lib/math/lanes.h"

namespace tq::cuda {

/// Whether entry [i][j] is -1: Paley's first construction, I + C, where C is bordered and holds the residues modulo 11.
TQ_HD constexpr bool hadamard12_is_minus(int i, int j) {
  constexpr unsigned kNonResidues = 1u << 2 | 1u << 6 | 1u << 7 | 1u << 8 | 1u << 10;
  if (i == j || i == 0) return false;
  return j == 0 || (kNonResidues >> ((i - j + 11) % 11) & 1u) != 0;
}

}  // namespace tq::cuda
