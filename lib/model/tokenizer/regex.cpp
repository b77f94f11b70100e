#include "lib/model/tokenizer/regex.h"

#include <fmt/format.h>

#include <optional>

#include "lib/error.h"
#include "lib/io/safetensors_header.h"
#include "lib/model/tokenizer/pattern.h"
#include "lib/model/tokenizer/unicode.h"
#include "lib/pcre.h"

namespace tq::text {

struct Regex::Code {
  Pcre pcre;
  std::string pattern;
  std::string where;

  /// The first match that begins at `from` or later.
  std::optional<Span> find(std::string_view text, std::size_t from) const {
    try {
      const auto match = pcre.find(text, from, true);
      return match ? std::optional(Span{match->first, match->second, true}) : std::nullopt;
    } catch (const PcreError& error) {
      throw Error(fmt::format("{}: the regular expression {} cannot be matched at byte offset {} of a text of {} bytes: {}; "
                              "shorten the text",
                              where, quote_name(pattern), from, text.size(), error.what()));
    }
  }
};

Regex Regex::compile(std::string_view pattern, const std::string& where) {
  const std::string translated = translate_pattern(pattern, where);
  try {
    return Regex(std::make_shared<const Code>(
        Code{Pcre(translated, Pcre::Dialect::kUnicodeLines), std::string(pattern), where}));
  } catch (const PcreError& error) {
    throw Error(fmt::format("{}: the regular expression {} is not understood: {}", where, quote_name(pattern), error.what()));
  }
}

std::vector<Span> Regex::split(std::string_view text) const {
  std::vector<Span> spans;
  std::size_t reported = 0;  // spans cover the text up to here
  std::optional<std::size_t> last_end;
  for (std::size_t from = 0; !text.empty() && from <= text.size();) {
    const std::optional<Span> match = code_->find(text, from);
    if (!match) break;
    if (match->begin == match->end && last_end == match->end) {
      from += from < text.size() ? decode_at(text, from).bytes : 1;
      continue;
    }
    if (match->begin > reported) spans.push_back({reported, match->begin, false});
    spans.push_back(*match);
    reported = match->end;
    from = match->end;
    last_end = match->end;
  }
  if (reported < text.size()) spans.push_back({reported, text.size(), false});
  return spans;
}

}  // namespace tq::text
