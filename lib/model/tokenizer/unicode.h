// Text as code points, and the properties of code points that tokenizers split and strip by. Every
// string here is valid UTF-8 unless a function says otherwise. Properties and normalization come
// from utf8proc, so they are those of the Unicode version that it carries.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace tq::text {

/// The byte offset of the first byte that is not part of well-formed UTF-8 (overlong forms,
/// surrogates and what is beyond U+10FFFF are not), or nothing.
std::optional<std::size_t> find_invalid_utf8(std::string_view text);

/// Error "WHERE: is not UTF-8 at byte offset N (0xXX); ..." unless `text` is valid UTF-8.
void require_utf8(std::string_view text, const std::string& where);

/// A code point and the number of its bytes, 1..4.
struct CodePoint {
  char32_t value;
  std::size_t bytes;
};

/// The code point that begins at byte `offset` of valid UTF-8.
CodePoint decode_at(std::string_view text, std::size_t offset);
/// The code point that ends before byte `end` (> 0) of valid UTF-8.
CodePoint decode_before(std::string_view text, std::size_t end);
void append_utf8(std::string& text, char32_t point);

/// The property White_Space: 25 code points, among them U+0085 but neither U+180E nor U+200B.
bool is_whitespace(char32_t point);
/// General categories Nd, Nl, No.
bool is_number(char32_t point);
/// General categories Mn, Mc, Me.
bool is_mark(char32_t point);
/// General categories P*, and the ASCII characters that C calls punctuation.
bool is_punctuation(char32_t point);
/// \w of UTS 18: Alphabetic, M*, Nd, Pc, and the two joiners.
bool is_word(char32_t point);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
std::string normalize_unicode(std::string_view text, NormalForm form);
/// Each code point for itself, without locale and without the rule for a final sigma; U+0130
/// becomes two code points.
std::string lowercase(std::string_view text);

}  // namespace tq::text
