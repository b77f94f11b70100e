// What passes through a tokenizer: pieces of text. Each part of tokenizer.json (normalizer,
// pre-tokenizer) becomes a list of stages, functions that change or split pieces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lib/model/tokenizer/regex.h"

namespace tq::text {

using Json = nlohmann::json;

/// A piece of the text, or an added token that was found in it. No piece is empty.
struct Piece {
  std::string text;
  /// How many bytes at its beginning come from the first character of the whole text.
  std::size_t start_bytes = 0;
  /// Of an added token; then text is what it took, and no stage touches the piece.
  std::int32_t id = -1;

  /// Bytes begin..end as a piece of its own.
  Piece part(std::size_t begin, std::size_t end) const;
  /// Puts `prefix` before the text; it counts as part of the first character.
  void prepend(const std::string& prefix);
};
using Pieces = std::vector<Piece>;

/// Normalized text may have at most this many bytes; more is an Error. Stages of a hostile file can
/// double the text each.
inline constexpr std::size_t kMostTextBytes = std::size_t{1} << 28;

using NormalizeStage = std::function<void(Piece&)>;
using SplitStage = std::function<void(Pieces&)>;

/// One step of tokenizer.json as it is read: the JSON, and its place for messages ("PATH:
/// normalizer.normalizers[1]").
struct Step {
  const Json& json;
  std::string where;

  /// The member "type"; Error where it is missing.
  std::string type() const;
  /// Error that names the place and `what`.
  [[noreturn]] void refuse(const std::string& what) const;
  /// Error "type X is not supported".
  [[noreturn]] void refuse_type() const;
  bool boolean(const char* key, bool otherwise) const;
  std::string string(const char* key) const;
  /// The one code point that the member holds.
  char32_t character(const char* key) const;
  /// {"Regex": R} or {"String": S} under "pattern".
  Regex pattern() const;
  /// The steps of the array `key`.
  std::vector<Step> steps(const char* key) const;
};

/// What becomes of matches: the names and the meaning are those of the published implementation.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
SplitBehavior parse_behavior(const Step& step, SplitBehavior otherwise);

/// Replaces every piece of text by its parts: `spans` covers text in order, as Regex::split() does.
void split_pieces(Pieces& pieces, SplitBehavior behavior,
                  const std::function<std::vector<Span>(const std::string&)>& spans);

/// Error when `bytes` is more than kMostTextBytes.
void check_growth(std::size_t bytes, const std::string& where);

}  // namespace tq::text
