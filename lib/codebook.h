// The table that an encoder or a decoder uses, where tables come from, and what a table costs.
//
// A codebook is its float32 levels; the edges are derived from them, so that a file which carries
// the levels carries all.
#pragma once

#include <cmath>
#include <numbers>
#include <span>
#include <string>
#include <string_view>

#include "lib/solver/density.h"

namespace tq {

/// A quantizer in the scale of a unit vector. A coordinate y gets the code #{edges < y}: a tie goes
/// to the lower code. Trivially copyable, 2052 bytes: goes to a kernel by value. Entries beyond the
/// counts below are 0.
struct Codebook {
  int bits;           ///< 1..8
  float levels[256];  ///< 2^bits, ascending
  float edges[256];   ///< 2^bits - 1; edges[i] = 0.5f * (levels[i] + levels[i + 1]), in float32
};
static_assert(sizeof(Codebook) == 4 + 2 * 256 * 4);

/// A codebook with these levels. Throws Error unless they are 2^b (b = 1..8) finite, strictly
/// ascending values.
Codebook make_codebook(std::span<const float> levels);

/// A table with its origin.
struct NamedCodebook {
  std::string id;  ///< "beta-d128-b3", "gaussian-d100-b4", "vj-d128-b3"
  Codebook table;
  Density density;      ///< what the two numbers below hold for: Beta for a "vj" table
  int dim;              ///< of the id
  double distortion;    ///< relative MSE under that density; 9 digits if frozen
  double entropy_bits;  ///< entropy of a code under that density, in bits
  bool frozen;          ///< from codebooks/; else solved by this call
};

/// The Lloyd-Max codebook of a density; bits 1..8, dim 8..1024 (for the Gaussian also 1), else
/// UsageError.
///
/// Beta: the frozen table of that dim (32 48 64 80 96 112 128 160 192 256 320 512 576); for any
/// other dim it is solved now, in milliseconds, and rounded once to float32.
///
/// Gaussian: always the frozen standard-normal table, scaled by the rule
///   level = float(double(frozen level) / sqrt(double(dim)))
/// which is IEEE operations alone, so the same bits on every machine.
NamedCodebook find_codebook(Density density, int dim, int bits);

/// The codebook of an id: one that find_codebook made, or a frozen compatibility table of
/// turboquant-plus-vllm, "vj-d<64, 128, 256>-b<2, 3, 4>" (lib/solver/published.h). Throws Error,
/// which names the id, for any other text.
NamedCodebook find_codebook(std::string_view id);

/// Exact relative MSE, dim * E (t - level)^2, of any table with the edges it has, also one that is
/// no fixed point of Lloyd-Max or not symmetric. With kBeta this is the expectation of
/// ||x - x_hat||^2 / ||x||^2 over random rotations. dim as for find_codebook, else Error. Relative
/// error about 1e-14.
double table_distortion(const Codebook& table, Density density, int dim);

/// Theorem 1 (arXiv 2504.19874): D <= sqrt(3) pi / 2 * 4^-bits, for the Lloyd-Max codebook.
inline double theorem1_bound(int bits) {
  return std::ldexp(std::numbers::sqrt3 * std::numbers::pi / 2, -2 * bits);
}

/// Theorem 3: no quantizer of `bits` bits a coordinate has a smaller D than 4^-bits.
inline double shannon_bound(int bits) { return std::ldexp(1.0, -2 * bits); }

}  // namespace tq
