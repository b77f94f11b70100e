// Codes to and from a little-endian bit stream: element i of a row occupies bits [i*Bits, (i+1)*Bits) of the row's
// bytes, and the bits after the last element are zero. Here a row is a sequence of 32-bit little-endian words.
#pragma once

#include "lib/math/lanes.h"

namespace tq::math {
inline namespace TQ_TARGET {

/// Bytes of a row of `dim` codes; rows start on a byte.
TQ_HD constexpr int row_bytes(int dim, int bits) { return (dim * bits + 7) / 8; }
/// 32-bit words that hold a row.
TQ_HD constexpr int row_words(int dim, int bits) { return (dim * bits + 31) / 32; }

/// words[w] |= the part of `code`, element `index` of the row, that belongs there. Codes come in ascending order, and
/// words[] starts as zeros.
template <int Bits, class I>
TQ_HD void put_code(I* words, int index, I code) {
  const int bit = index * Bits;
  const int word = bit / 32;
  const int shift = bit % 32;
  words[word] |= code << shift;
  if (shift + Bits > 32) words[word + 1] |= code >> (32 - shift);
}

/// Element `index` of the row. The arithmetic shift of a word is harmless: the mask follows.
template <int Bits, class I>
TQ_HD I get_code(const I* words, int index) {
  const int bit = index * Bits;
  const int word = bit / 32;
  const int shift = bit % 32;
  I code = words[word] >> shift;
  if (shift + Bits > 32) code = (code & splat_int<I>((1 << (32 - shift)) - 1)) | (words[word + 1] << (32 - shift));
  return code & ((1 << Bits) - 1);
}

}  // namespace TQ_TARGET
}  // namespace tq::math
