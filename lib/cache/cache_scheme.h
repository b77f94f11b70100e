// How the keys or the values of one layer (or of one of its heads) are kept, in full: the Scheme of the rows that are
// coded, and what is done beside it. As a Scheme it is one line of text, which is what a file stores (docs/format.md):
//
//   tq/1 bits=2 dim=96 ... qjl=none center=mean outliers=32:3:beta-d32-b3 exact=4+128:BF16
//   group/1 bits=2 dim=128 group=32 exact=4+128:BF16
//   exact/1 dim=128 dtype=BF16
//
// The first form is a Scheme's text, then the fields that are in use, in this order. A reader refuses what it does not know.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "lib/scheme.h"

namespace tq {

/// What becomes of a row that is not kept exactly.
enum class CacheKind {
  kTurboQuant,  ///< TurboQuant, of the row or of what center and outliers leave of it
  kGroup,       ///< asymmetric min/max by groups of a row's channels, as KIVI keeps values (arXiv 2402.02750)
  kExact,       ///< nothing: every row in 16 bits
};

inline constexpr int kMaxExactTokens = 1 << 20;

struct CacheScheme {
  CacheKind kind = CacheKind::kTurboQuant;
  int dim = 0;  ///< elements of a row, 8..1024

  Scheme rows;  ///< kTurboQuant: of what is coded, of dim - outlier_channels elements

  /// The mean over the coded tokens, a head and channel, is subtracted before coding and added after it. Softmax does not
  /// see a constant shift of the keys; a codec whose error grows with the row's norm does.
  bool center = false;

  /// The channels with the most energy, a head, are rows of their own, with their own rotation and codebook (the two
  /// instances of the paper's section 4.3). 0: none. Else 8 or more, and dim - outlier_channels is 8 or more.
  int outlier_channels = 0;
  Scheme outlier_rows;

  int group_bits = 0;  ///< kGroup: 1..8
  int group = 0;       ///< kGroup: channels of a group, 8..dim, dividing dim

  int sinks = 0;       ///< the first tokens, kept in 16 bits
  int recent = 0;      ///< the newest tokens, kept in 16 bits: a buffer, from which tokens go to the codes
  DType exact_dtype = DType::kBf16;  ///< BF16 or F16, of what is kept in 16 bits

  bool operator==(const CacheScheme&) const = default;

  /// Only coded rows, and nothing beside them: what a Codec alone can do.
  bool is_plain() const {
    return kind == CacheKind::kTurboQuant && !center && outlier_channels == 0 && sinks == 0 && recent == 0;
  }
  /// How many of `tokens` tokens are coded: those that are neither sinks nor recent.
  std::int64_t coded_tokens(std::int64_t tokens) const;
  /// Bits a value that the codes and the sketch take, over the channels of a coded row: 32 of 128 channels at 3 bits and the
  /// others at 2 are 2.25.
  double average_bits() const;
  /// Bits of all values of `heads` heads of `tokens` tokens: average_bits() each, 16 in exact rows. No norms, scales, means.
  double value_bits(std::int64_t heads, std::int64_t tokens) const;
  /// Bytes of a coded row, norms and scales included; 2 dim where every row is exact.
  std::int64_t row_bytes() const;
  /// Exact bytes of `heads` heads of `tokens` tokens: coded rows, exact rows, means and channel numbers. No tables.
  std::uint64_t bytes(std::int64_t heads, std::int64_t tokens) const;
};

/// Only coded rows.
CacheScheme plain_scheme(const Scheme& rows);
CacheScheme group_scheme(int bits, int dim, int group);
CacheScheme exact_scheme(int dim, DType dtype);

std::string format_cache_scheme(const CacheScheme& scheme);
/// The inverse. Throws Error that names the field and `where`.
CacheScheme parse_cache_scheme(std::string_view text, const std::string& where);

}  // namespace tq
