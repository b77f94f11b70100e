// How gpu_parity compares two backends: both code the same rows, and the first row whose bytes differ is shown.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "lib/backend.h"
#include "lib/parallel.h"
#include "tests/parity_rows.h"

namespace tq {

/// What a case compares, and how often it differed.
struct Tally {
  std::int64_t rows = 0;
  std::int64_t differences = 0;
};

/// Rows as a backend takes them, and what it made of them.
struct Coded {
  std::int64_t refused = -1;
  std::vector<std::uint8_t> codes;
  std::vector<float> norms;
  std::vector<std::uint8_t> decoded;
};

/// Encodes and decodes rows of one other value, so that what a backend's buffers hold from a call before is none of what is compared next.
inline void code_others(const Backend& backend, const Codec& codec, const Rows& rows) {
  const std::vector<std::uint8_t> others(rows.bytes.size(), 0x3c);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(rows.count * codec.scheme().code_bytes())), decoded(rows.bytes.size());
  std::vector<float> norms(static_cast<std::size_t>(rows.count));
  backend.encode(codec, rows.dtype, others.data(), rows.count, codes.data(), norms.data());
  backend.decode(codec, codes.data(), norms.data(), rows.count, rows.dtype, decoded.data());
}

/// Encodes and decodes all rows in one call each.
inline Coded code_rows(const Backend& backend, const Codec& codec, const Rows& rows) {
  Coded coded;
  const auto count = static_cast<std::size_t>(rows.count);
  coded.codes.resize(count * static_cast<std::size_t>(codec.scheme().code_bytes()));
  coded.norms.resize(count);
  coded.refused =
      backend.encode(codec, rows.dtype, rows.bytes.data(), rows.count, coded.codes.data(), coded.norms.data());
  if (coded.refused >= 0) return coded;
  coded.decoded.resize(rows.bytes.size());
  backend.decode(codec, coded.codes.data(), coded.norms.data(), rows.count, rows.dtype, coded.decoded.data());
  return coded;
}

/// The same in pieces, for the one-row-at-a-time CPU code: on all cores.
inline Coded code_rows_in_pieces(const Backend& backend, const Codec& codec, const Rows& rows) {
  constexpr std::int64_t kPiece = 32;
  const auto code_bytes = static_cast<std::size_t>(codec.scheme().code_bytes());
  Coded all;
  all.codes.resize(static_cast<std::size_t>(rows.count) * code_bytes);
  all.norms.resize(static_cast<std::size_t>(rows.count));
  all.decoded.resize(rows.bytes.size());
  std::atomic<std::int64_t> refused{rows.count};
  parallel_for(default_threads(), (rows.count + kPiece - 1) / kPiece, [&](std::int64_t piece) {
    const std::int64_t start = piece * kPiece;
    const std::int64_t count = std::min(kPiece, rows.count - start);
    const auto first = static_cast<std::size_t>(start);
    std::uint8_t* codes = all.codes.data() + first * code_bytes;
    float* norms = all.norms.data() + first;
    const std::int64_t bad =
        backend.encode(codec, rows.dtype, rows.bytes.data() + first * rows.row_bytes(), count, codes, norms);
    if (bad >= 0) {
      std::int64_t lowest = refused;
      while (start + bad < lowest && !refused.compare_exchange_weak(lowest, start + bad)) {
      }
      return;
    }
    backend.decode(codec, codes, norms, count, rows.dtype, all.decoded.data() + first * rows.row_bytes());
  });
  all.refused = refused < rows.count ? refused.load() : -1;
  return all;
}

/// Compares the first `rows` rows of two arrays, and shows the first row that differs.
inline bool same_bytes(const char* what, const std::string& where, const void* expected, const void* got, std::int64_t rows,
                std::size_t row_bytes) {
  if (std::memcmp(expected, got, static_cast<std::size_t>(rows) * row_bytes) == 0) return true;
  const auto* a = static_cast<const std::uint8_t*>(expected);
  const auto* b = static_cast<const std::uint8_t*>(got);
  std::int64_t differing = 0;
  std::int64_t first = -1;
  for (std::int64_t row = 0; row < rows; ++row) {
    if (std::memcmp(a + static_cast<std::size_t>(row) * row_bytes, b + static_cast<std::size_t>(row) * row_bytes,
                    row_bytes) == 0) {
      continue;
    }
    if (first < 0) first = row;
    ++differing;
  }
  std::size_t at = static_cast<std::size_t>(first) * row_bytes;
  while (a[at] == b[at]) ++at;
  fmt::print("  {}: {} differ in {} of {} rows, first in row {}, byte {}: {:02x}, and the CPU has {:02x}\n", where, what,
             differing, rows, first, at - static_cast<std::size_t>(first) * row_bytes, b[at], a[at]);
  return false;
}

/// `refused`: the row that both must refuse, or -1. Rows before it are compared.
inline void compare(const Backend& reference, const Backend& tested, const Codec& codec, const Rows& rows,
             std::int64_t refused, Tally& tally) {
  const Scheme& scheme = codec.scheme();
  const std::string where = fmt::format("{} from {}", format_scheme(scheme), name_of(rows.dtype));
  const Coded expected = code_rows_in_pieces(reference, codec, rows);
  const Coded got = code_rows(tested, codec, rows);
  tally.rows += rows.count;
  bool same = expected.refused == refused && got.refused == refused;
  if (!same) {
    fmt::print("  {}: row {} is refused, the CPU refuses {}, and {} is right\n", where, got.refused, expected.refused,
               refused);
  }
  const std::int64_t comparable = refused >= 0 ? refused : rows.count;
  same &= same_bytes("codes", where, expected.codes.data(), got.codes.data(), comparable,
                     static_cast<std::size_t>(scheme.code_bytes()));
  same &= same_bytes("norms", where, expected.norms.data(), got.norms.data(), comparable, sizeof(float));
  if (same && refused < 0) {
    same &= same_bytes("decoded values", where, expected.decoded.data(), got.decoded.data(), comparable,
                       rows.row_bytes());
  }
  if (!same) ++tally.differences;
}

}  // namespace tq
