// Regular expressions of tokenizer.json are written for Oniguruma; PCRE2 reads nearly the same
// language and gives some of it another meaning. This translates what pre-tokenizers use, and
// refuses the rest by name.
#pragma once

#include <string>
#include <string_view>

namespace tq::text {

/// `pattern` (Oniguruma's own syntax, UTF-8) as a PCRE2 pattern for the options UTF, UCP and
/// MULTILINE with LF as the only newline. What differs, and is rewritten:
///  * \s is White_Space: PCRE2's also has U+180E. \w is Alphabetic, M*, Nd, Pc: PCRE2's has N* and
///  lacks some of M*. Outside a set it has U+00B2, U+00B3, U+00B9 and U+00BC to U+00BE as well.
///    \h is a hexadecimal digit, \v is U+000B, \b is the edge of the \w above, \uHHHH is a code
///    point.
///  * {n,m}+ repeats the interval (it is not possessive), {n}? makes it optional, {,m} begins at 0,
///  other braces are
///    characters. *+ ++ ?+ are possessive in both.
///  * ^ and $ match at every line; (?i) is a group option, and here only at the start of the
///  pattern.
///  * \p{Han} is the script, not the script extensions.
/// Error, beginning with `where` and with the byte offset, for: (?m) and (?x), named and
/// conditional groups, callouts, back references, \R \X \K \G and other escapes, set operations (a
/// nested [, &&), \W and \H inside a set. One difference remains: under (?i) Oniguruma also folds
/// one character to several (st and U+FB06); no published pattern has such a pair.
std::string translate_pattern(std::string_view pattern, const std::string& where);

/// `text` as a pattern that matches just it.
std::string escape_pattern(std::string_view text);

}  // namespace tq::text
