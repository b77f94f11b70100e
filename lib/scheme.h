// All that a decoder needs to know about how rows were coded, apart from the tables that travel beside it.
// A Scheme is printed and parsed as one line of text, which is what a file stores:
//
//   tq/1 bits=3 dim=128 rotation=rht2 seed=42 codebook=beta-d128-b3 norm=raw norm_dtype=F32 qjl=none
//
// The first word is the version of this text. Fields come in this order, each exactly once. A reader refuses fields and
// values that it does not know: whatever is written there changes what the bytes mean.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "lib/dtype.h"
#include "lib/math/norm.h"

namespace tq {

enum class RotationKind {
  kRht2,      ///< D2 H D1, two sign vectors around a Hadamard matrix; dims without one use a Haar QR matrix
  kRht1,      ///< H D1, one sign vector
  kQr,        ///< Haar: Q of the QR decomposition of a Gaussian matrix, with the signs of R's diagonal
  kIdentity,  ///< none, for comparison: rows keep their outliers, and Theorem 1 says nothing
};

std::string_view name_of(RotationKind kind);
std::string_view name_of(NormMode mode);
/// Throw UsageError that lists the known names.
RotationKind parse_rotation(std::string_view name);
NormMode parse_norm_mode(std::string_view name);

/// Smallest and largest row that tq codes, in elements; bits of a code.
inline constexpr int kMinDim = 8;
inline constexpr int kMaxRowDim = 1024;
inline constexpr int kMinBits = 1;
inline constexpr int kMaxBits = 8;
inline constexpr std::uint32_t kDefaultSeed = 42;

struct Scheme {
  int bits = 4;    ///< bits of a code, 1..8
  int dim = 0;     ///< elements of a row, 8..1024
  RotationKind rotation = RotationKind::kRht2;
  std::uint32_t seed = kDefaultSeed;  ///< of the rotation; K and V may differ
  std::string codebook;               ///< id of the table, such as "beta-d128-b3"
  NormMode norm = NormMode::kRaw;
  DType norm_dtype = DType::kF32;  ///< F32, or F16 (largest 65504)
  std::optional<std::uint32_t> qjl;  ///< seed of the sketch of the residual (K only); nothing: there is none

  bool operator==(const Scheme&) const = default;

  /// Bytes of one row: codes, rounded up to a byte; norm; the signs of the sketch with the norm of the residual.
  int code_bytes() const { return (dim * bits + 7) / 8; }
  int norm_bytes() const { return static_cast<int>(size_of(norm_dtype)); }
  int sign_bytes() const { return qjl ? (dim + 7) / 8 : 0; }
  int row_bytes() const { return code_bytes() + norm_bytes() + (qjl ? sign_bytes() + norm_bytes() : 0); }
  /// Bits a value that the codes and the sketch take: what "K at 4 bits" means.
  int total_bits() const { return bits + (qjl ? 1 : 0); }
};

/// The scheme that tq uses for rows of `dim` elements when nothing else is said: the codebook of the exact density on
/// the sphere, raw float32 norms.
Scheme default_scheme(int bits, int dim, RotationKind rotation = RotationKind::kRht2,
                      std::uint32_t seed = kDefaultSeed);

/// One line, as above.
std::string format_scheme(const Scheme& scheme);
/// The inverse. Throws Error that names the field and `where` (such as "k.0 of cache.tq3").
Scheme parse_scheme(std::string_view text, const std::string& where);

}  // namespace tq
