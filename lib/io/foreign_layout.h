// Raw dumps of the compressed KV caches of other systems: where codes and norms lie, described as
// data, and a reader that hands them over in tq's own bit order. docs/foreign-layouts.md shows each
// layout with its byte offsets.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/cache/kv_options.h"
#include "lib/dtype.h"
#include "lib/io/file.h"
#include "lib/scheme.h"

namespace tq {


/// Where a file keeps its rows, one row a token and head. C and N are the bytes of a row's codes
/// and of its norm.
enum class Arrangement {
  kHeadRuns,   ///< K or V: codes [heads][tokens][C], then norms [heads][tokens]
  kTokenRuns,  ///< K or V: codes [tokens][heads][C], then norms [tokens][heads]
  kTokenRows,  ///< K and V: for each token K codes [heads][C], K norms [heads], V codes, V norms,
               ///< and bytes that mean nothing up to heads * next_power_of_two(2 (C + N))
  kSlots,  ///< K and V: [2][tokens][heads] slots of a row's codes and, right after them, its norm
};

/// One layout. Integers and floats are little-endian.
struct ForeignLayout {
  std::string_view name;
  std::string_view system;  ///< that writes it
  Arrangement arrangement;
  /// Bits that a code of 2, 3 or 4 bits takes up; 0 where the system has no such codes. Code i of a
  /// row occupies bits [i w, (i + 1) w) of the row's bytes, bit j being bit j mod 8 of byte j
  /// div 8.
  std::array<int, 3> cell_bits;
  bool high_first;  ///< instead, of the two codes in a byte the even one is the high nibble
  DType norm_dtype;

  // What the system codes with; empty where the systems that share a layout differ, so that the
  // user has to say it.
  std::optional<RotationKind> rotation;
  std::optional<std::array<std::uint32_t, 2>> seeds;  ///< of K and of V
  std::string_view codebook;  ///< a published set of levels (lib/solver/published.h)

  bool holds_both() const {
    return arrangement == Arrangement::kTokenRows || arrangement == Arrangement::kSlots;
  }
};

/// All layouts, in the order of the documentation.
std::span<const ForeignLayout> foreign_layouts();
/// Throws UsageError that lists the names.
const ForeignLayout& find_foreign_layout(std::string_view name);

/// What a raw file does not say about itself.
struct ForeignShape {
  int dim = 0;                         ///< elements of a row, 8..1024
  int heads = 0;                       ///< heads of K and V, 1..65536
  int bits = 0;                        ///< of a code, 2..4
  std::optional<std::int64_t> tokens;  ///< 1 or more; default: as many as the file holds
};

inline constexpr int kMaxForeignHeads = 65536;

/// Throws UsageError unless the numbers are in range, the layout has codes of that width, and a row
/// of them fills whole bytes.
void check_foreign_shape(const ForeignLayout& layout, const ForeignShape& shape);

/// A raw file whose size fits its layout. Move-only; reading is thread-safe.
class ForeignFile {
 public:
  /// Errors: as check_foreign_shape() and InputFile::open(); a size that is not a whole number of
  /// tokens; fewer tokens than shape.tokens. More are refused too in kHeadRuns, where the count
  /// decides the offsets; elsewhere the rest are slots that were never filled, and are not read.
  static ForeignFile open(const std::string& path, const ForeignLayout& layout,
                          const ForeignShape& shape);

  const InputFile& file() const { return file_; }
  const ForeignLayout& layout() const { return layout_; }
  int heads() const { return shape_.heads; }
  std::int64_t tokens() const { return tokens_; }
  /// Bytes of one token of one part, all heads: codes and norms, without pad.
  std::int64_t token_bytes() const;

  /// Tokens first .. first + count - 1 of all heads: codes [heads][count][dim bits / 8] in tq's bit
  /// order, norms [heads][count]. `part` counts only where the layout holds both. Error, with byte
  /// offset, for a code of more than `bits` bits and for a norm that is negative or not finite.
  void read_tokens(KvPart part, std::int64_t first, std::int64_t count, std::uint8_t* codes,
                   float* norms) const;

 private:
  /// Of the codes or the norms of a part: byte offset = base + token * token_stride + head *
  /// head_stride.
  struct Place {
    std::int64_t base;
    std::int64_t token_stride;
    std::int64_t head_stride;
    std::int64_t size;  ///< bytes of one row's

    std::int64_t offset(std::int64_t token, std::int64_t head) const {
      return base + token * token_stride + head * head_stride;
    }
  };

  ForeignFile(InputFile file, const ForeignLayout& layout, const ForeignShape& shape,
              std::int64_t capacity);
  Place place_codes(KvPart part) const;
  Place place_norms(KvPart part) const;
  std::vector<std::uint8_t> gather(const Place& place, std::int64_t first,
                                   std::int64_t count) const;
  [[noreturn]] void refuse(const Place& place, std::int64_t token, std::int64_t head,
                           const std::string& what) const;

  InputFile file_;
  ForeignLayout layout_;
  ForeignShape shape_;
  std::int64_t capacity_;  // tokens that the file has room for
  std::int64_t tokens_;
};

}  // namespace tq
