// Rows in memory to and from rows in lanes: kLanes rows of 32-bit words are transposed, W x W words at a time.
// F16 and BF16 rows travel as words of two elements and are widened after the transposition, so half as much moves.
// Nothing here computes a float; converting is lib/math's.
#pragma once

#include "lib/dtype.h"
#include "lib/math/convert.h"

namespace tq::math {
inline namespace TQ_TARGET {

#define TQ_SHUFFLE(...) __builtin_shufflevector(__VA_ARGS__)
// Of pairs of words, of which g++ 12 knows instructions that take no register for the order.
#define TQ_SHUFFLE_PAIRS(a, b, ...) bits_as<I>(TQ_SHUFFLE(bits_as<PairLanes<I>>(a), bits_as<PairLanes<I>>(b), __VA_ARGS__))

/// The same register as lanes of 64 bits.
template <class I>
using PairLanes __attribute__((vector_size(sizeof(I)))) = std::int64_t;

/// Transposes the W x W words m[row] lane column.
template <class I>
TQ_HD void transpose(I* m) {
  constexpr int kWidth = kLanes<I>;
  if constexpr (kWidth == 4) {
    const I a = TQ_SHUFFLE(m[0], m[1], 0, 4, 1, 5), b = TQ_SHUFFLE(m[0], m[1], 2, 6, 3, 7);
    const I c = TQ_SHUFFLE(m[2], m[3], 0, 4, 1, 5), d = TQ_SHUFFLE(m[2], m[3], 2, 6, 3, 7);
    m[0] = TQ_SHUFFLE(a, c, 0, 1, 4, 5);
    m[1] = TQ_SHUFFLE(a, c, 2, 3, 6, 7);
    m[2] = TQ_SHUFFLE(b, d, 0, 1, 4, 5);
    m[3] = TQ_SHUFFLE(b, d, 2, 3, 6, 7);
  } else if constexpr (kWidth == 8) {
    I a[8];
    for (int i = 0; i < 8; i += 4) {
      const I p = TQ_SHUFFLE(m[i], m[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
      const I q = TQ_SHUFFLE(m[i], m[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
      const I r = TQ_SHUFFLE(m[i + 2], m[i + 3], 0, 8, 1, 9, 4, 12, 5, 13);
      const I s = TQ_SHUFFLE(m[i + 2], m[i + 3], 2, 10, 3, 11, 6, 14, 7, 15);
      a[i] = TQ_SHUFFLE(p, r, 0, 1, 8, 9, 4, 5, 12, 13);
      a[i + 1] = TQ_SHUFFLE(p, r, 2, 3, 10, 11, 6, 7, 14, 15);
      a[i + 2] = TQ_SHUFFLE(q, s, 0, 1, 8, 9, 4, 5, 12, 13);
      a[i + 3] = TQ_SHUFFLE(q, s, 2, 3, 10, 11, 6, 7, 14, 15);
    }
    for (int i = 0; i < 4; ++i) {
      m[i] = TQ_SHUFFLE(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
      m[i + 4] = TQ_SHUFFLE(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
  } else if constexpr (kWidth == 16) {
    I a[16];
    for (int i = 0; i < 16; i += 4) {
      const I p = TQ_SHUFFLE(m[i], m[i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
      const I q = TQ_SHUFFLE(m[i], m[i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
      const I r = TQ_SHUFFLE(m[i + 2], m[i + 3], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
      const I s = TQ_SHUFFLE(m[i + 2], m[i + 3], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
      a[i] = TQ_SHUFFLE_PAIRS(p, r, 0, 8, 2, 10, 4, 12, 6, 14);
      a[i + 1] = TQ_SHUFFLE_PAIRS(p, r, 1, 9, 3, 11, 5, 13, 7, 15);
      a[i + 2] = TQ_SHUFFLE_PAIRS(q, s, 0, 8, 2, 10, 4, 12, 6, 14);
      a[i + 3] = TQ_SHUFFLE_PAIRS(q, s, 1, 9, 3, 11, 5, 13, 7, 15);
    }
    // Now a[4j + i] holds columns i, i+4, i+8, i+12 of rows 4j .. 4j+3, four words each.
    for (int i = 0; i < 4; ++i) {
      const I p = TQ_SHUFFLE_PAIRS(a[i], a[i + 4], 0, 1, 4, 5, 8, 9, 12, 13);
      const I q = TQ_SHUFFLE_PAIRS(a[i], a[i + 4], 2, 3, 6, 7, 10, 11, 14, 15);
      const I r = TQ_SHUFFLE_PAIRS(a[i + 8], a[i + 12], 0, 1, 4, 5, 8, 9, 12, 13);
      const I s = TQ_SHUFFLE_PAIRS(a[i + 8], a[i + 12], 2, 3, 6, 7, 10, 11, 14, 15);
      m[i] = TQ_SHUFFLE_PAIRS(p, r, 0, 1, 4, 5, 8, 9, 12, 13);
      m[i + 4] = TQ_SHUFFLE_PAIRS(q, s, 0, 1, 4, 5, 8, 9, 12, 13);
      m[i + 8] = TQ_SHUFFLE_PAIRS(p, r, 2, 3, 6, 7, 10, 11, 14, 15);
      m[i + 12] = TQ_SHUFFLE_PAIRS(q, s, 2, 3, 6, 7, 10, 11, 14, 15);
    }
  }
}
#undef TQ_SHUFFLE_PAIRS
#undef TQ_SHUFFLE

/// Asks for `bytes` bytes at `at` to come into the cache, to be read or written. A block of rows is read in many streams, which
/// the hardware's own prefetchers follow badly; asked for blocks ahead, the wait overlaps the arithmetic. `at` may be anywhere.
template <bool kWrite>
TQ_HD void prefetch(const std::uint8_t* at, std::int64_t bytes) {
  for (std::int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i, kWrite ? 1 : 0);
}

/// As memcpy of at most sizeof(I) bytes, at the end of a row: no call where they are a multiple of 16.
template <class I>
TQ_HD void copy_end(void* to, const void* from, int bytes) {
  auto* target = static_cast<std::uint8_t*>(to);
  const auto* source = static_cast<const std::uint8_t*>(from);
  int done = 0;
  if constexpr (sizeof(I) > 16) {
    for (; done + 16 <= bytes; done += 16) memcpy(target + done, source + done, 16);
  }
  if (done < bytes) memcpy(target + done, source + done, static_cast<std::size_t>(bytes - done));
}

/// The first `bytes` bytes of `words`, fewer than it has, to the end of a row: one masked store where the machine has it.
template <class I>
TQ_HD void store_end(std::uint8_t* to, const I& words, int bytes) {
#if defined(__AVX512BW__)
  if constexpr (sizeof(I) == 64) {
    _mm512_mask_storeu_epi8(to, (std::uint64_t{1} << bytes) - 1, bits_as<__m512i>(words));
    return;
  }
#endif
  copy_end<I>(to, &words, bytes);
}

/// Calls take(w, word w of each row, a row a lane) for each word. rows: kLanes<I> rows, `stride` bytes apart, `bytes` used of
/// each; the words' bytes past the end of a row are zero.
template <class I, class Take>
TQ_HD void take_words(const std::uint8_t* rows, std::int64_t stride, int bytes, Take&& take) {
  constexpr int kWidth = kLanes<I>;
  constexpr int kBlock = static_cast<int>(sizeof(I));
  int start = 0;
  for (; start + kBlock <= bytes; start += kBlock) {
    I words[kWidth];
    for (int r = 0; r < kWidth; ++r) memcpy(&words[r], rows + r * stride + start, sizeof(I));
    transpose(words);
    TQ_UNROLL(16)
    for (int w = 0; w < kWidth; ++w) take(start / 4 + w, words[w]);
  }
  if (start >= bytes) return;
  I last[kWidth] = {};
  for (int r = 0; r < kWidth; ++r) copy_end<I>(&last[r], rows + r * stride + start, bytes - start);
  transpose(last);
  for (int w = 0; w < (bytes - start + 3) / 4; ++w) take(start / 4 + w, last[w]);
}

/// words[w] lane r = word w of row r, as take_words().
template <class I>
TQ_HD void load_words(const std::uint8_t* rows, std::int64_t stride, int bytes, I* words) {
  take_words<I>(rows, stride, bytes, [words](int w, I word) { words[w] = word; });
}

/// The inverse of load_words; `words` is overwritten.
template <class I>
TQ_HD void store_words(I* words, std::uint8_t* rows, std::int64_t stride, int bytes) {
  constexpr int kWidth = kLanes<I>;
  constexpr int kBlock = static_cast<int>(sizeof(I));
  int start = 0;
  for (; start + kBlock <= bytes; start += kBlock, words += kWidth) {
    transpose(words);
    for (int r = 0; r < kWidth; ++r) memcpy(rows + r * stride + start, &words[r], sizeof(I));
  }
  if (start >= bytes) return;
  I last[kWidth];
  const int last_word = (bytes - start + 3) / 4 - 1;
  TQ_UNROLL(16)
  for (int w = 0; w < kWidth; ++w) last[w] = words[w < last_word ? w : last_word];  // after the row's end any word will do: it is not stored
  transpose(last);
  for (int r = 0; r < kWidth; ++r) store_end(rows + r * stride + start, last[r], bytes - start);
}

/// x[i] lane r = element i of row r, as float32. x has room for dim values and, where dim is odd, one more.
template <class V>
TQ_HD void load_rows(DType dtype, const std::uint8_t* rows, int dim, V* x) {
  using I = IntOf<V>;
  const int bytes = dim * static_cast<int>(size_of(dtype));
  if (dtype == DType::kF32) {
    take_words<I>(rows, bytes, bytes, [x](int w, I word) { x[w] = bits_as<V>(word); });
  } else if (dtype == DType::kF16) {
    take_words<I>(rows, bytes, bytes, [x](int w, I pair) {
      x[2 * w] = float_from_f16(pair);
      x[2 * w + 1] = float_from_f16(pair >> 16);
    });
  } else {
    take_words<I>(rows, bytes, bytes, [x](int w, I pair) {
      x[2 * w] = float_from_bf16(pair);
      x[2 * w + 1] = bits_as<V>(pair & ~0xffff);
    });
  }
}

/// The inverse of load_rows, rounding to nearest even.
template <class V>
TQ_HD void store_rows(DType dtype, V* x, int dim, IntOf<V>* words, std::uint8_t* rows) {
  using I = IntOf<V>;
  const int bytes = dim * static_cast<int>(size_of(dtype));
  if (dtype == DType::kF32) {
    for (int i = 0; i < dim; ++i) words[i] = bits_as<I>(x[i]);
  } else {
    for (int i = 0; i < dim; i += 2) {
      const V high = i + 1 < dim ? x[i + 1] : splat<V>(0.0f);
      words[i / 2] = dtype == DType::kF16 ? f16_from_float(x[i]) | (f16_from_float(high) << 16)
                                          : bf16_pair_from_float(x[i], high);
    }
  }
  store_words(words, rows, bytes, bytes);
}

}  // namespace TQ_TARGET
}  // namespace tq::math
