// KIVI (Liu et al., arXiv 2402.02750): asymmetric codes of 2 or 4 bits in groups of 32, as its
// published code makes them. Keys are grouped along a channel, over 32 tokens; values along a
// token, over 32 channels.
//
// Of a group: zero = min, scale = (max - min) / (2^bits - 1), code = round((x - zero) / scale) to
// nearest even, clamped; x_hat = code * scale + zero. The system's rows are F16 and so is each step
// of the encoder here; x_hat is made in float32, as in its kernels. A constant group, where it
// divides 0 by 0, decodes to its value here.
//
// The newest 128 tokens are in a buffer of F16 rows (recent_tokens()). Values leave it one by one.
// Keys leave it here in whole groups: bytes() counts the newest 128 and those before them that do
// not fill a group of 32 (a group starts at a multiple of 32) in 16 bits. The published code
// empties the key buffer all at once when it holds 128, so that a query finds 1 to 128 keys in it,
// 64 in the mean; 128 is the most that it grants, in precision and in bytes. x_hat of the tokens
// after the last whole group, which no query reads, is the row in F16.
#pragma once

#include <memory>

#include "lib/cache/cache_method.h"

namespace tq {

inline constexpr std::int64_t kKiviGroup = 32;
inline constexpr std::int64_t kKiviBuffer = 128;

/// bits 2 or 4. All dims. round_trip() refuses values, and ranges of a group, beyond F16.
std::shared_ptr<const CacheMethod> make_kivi_keys(int bits, int dim);
/// The same; Error unless dim is a multiple of 32.
std::shared_ptr<const CacheMethod> make_kivi_values(int bits, int dim);

}  // namespace tq
