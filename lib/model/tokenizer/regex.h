// A compiled regular expression of tokenizer.json, and its matches as the published implementation
// walks over them.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tq::text {

/// Bytes begin..end of a text; is_match says whether a pattern matched there or it lies between
/// matches.
struct Span {
  std::size_t begin;
  std::size_t end;
  bool is_match;
};

/// Copyable (shares the compiled code); matching is thread-safe.
class Regex {
 public:
  /// Compiles what translate_pattern() makes of an Oniguruma pattern. Error, beginning with
  /// `where`, for a pattern that is not understood.
  static Regex compile(std::string_view pattern, const std::string& where);

  /// All of `text` (valid UTF-8) in order: matches, leftmost first and not overlapping, and what
  /// lies between them. An empty match is reported as an empty span, but not right after another
  /// match. Nothing matches in an empty text. Error where matching needs more backtracking or
  /// memory than PCRE2's limits allow.
  std::vector<Span> split(std::string_view text) const;

 private:
  struct Code;
  explicit Regex(std::shared_ptr<const Code> code) : code_(std::move(code)) {}
  std::shared_ptr<const Code> code_;
};

}  // namespace tq::text
