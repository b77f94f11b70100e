#include "lib/model/tokenizer/pre_tokenizer.h"

#include <array>
#include <iterator>

#include "lib/io/safetensors_header.h"
#include "lib/model/tokenizer/unicode.h"

namespace tq::text {
namespace {

using Predicate = bool (*)(char32_t);

/// GPT-2's words: contractions, runs of letters, of digits, of other characters, and of spaces less
/// the last.
constexpr const char* kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Each character that is asked for is a match of its own.
template <typename IsMatch>
std::vector<Span> find_characters(const std::string& text, IsMatch is_match) {
  std::vector<Span> spans;
  std::size_t reported = 0;
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint point = decode_at(text, at);
    if (is_match(point.value)) {
      if (at > reported) spans.push_back({reported, at, false});
      spans.push_back({at, at + point.bytes, true});
      reported = at + point.bytes;
    }
    at += point.bytes;
  }
  if (reported < text.size()) spans.push_back({reported, text.size(), false});
  return spans;
}

SplitStage make_character_split(Predicate is_match, SplitBehavior behavior) {
  return [is_match, behavior](Pieces& pieces) {
    split_pieces(pieces, behavior,
                 [&](const std::string& text) { return find_characters(text, is_match); });
  };
}

SplitStage make_regex_split(Regex regex, SplitBehavior behavior, bool invert) {
  return [regex = std::move(regex), behavior, invert](Pieces& pieces) {
    split_pieces(pieces, behavior, [&](const std::string& text) {
      std::vector<Span> spans = regex.split(text);
      for (Span& span : spans) span.is_match = span.is_match != invert;
      return spans;
    });
  };
}

/// GPT-2's visible stand-in for each byte: itself where it is printable in Latin-1, else U+0100 and
/// on.
std::array<std::string, 256> make_byte_names() {
  std::array<std::string, 256> names;
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool visible = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
    append_utf8(names[byte], visible ? byte : next++);
  }
  return names;
}

/// Writes each byte as `write(byte)` says.
template <typename Write>
void rewrite_bytes(Piece& piece, const Write& write) {
  std::string text;
  std::size_t start = 0;
  text.reserve(piece.text.size() * 2);
  for (std::size_t at = 0; at < piece.text.size(); ++at) {
    text += write(piece.text[at]);
    if (at < piece.start_bytes) start = text.size();
  }
  piece.text = std::move(text);
  piece.start_bytes = start;
}

void name_bytes(Pieces& pieces) {
  static const std::array<std::string, 256> kNames = make_byte_names();
  for (Piece& piece : pieces) {
    if (piece.id < 0)
      rewrite_bytes(
          piece, [](char c) -> std::string_view { return kNames[static_cast<unsigned char>(c)]; });
  }
}

std::vector<SplitStage> make_byte_level(const Step& step) {
  std::vector<SplitStage> stages;
  if (step.boolean("add_prefix_space", true)) {
    stages.push_back([](Pieces& pieces) {
      for (Piece& piece : pieces) {
        if (piece.id < 0 && !piece.text.starts_with(' ')) piece.prepend(" ");
      }
    });
  }
  if (step.boolean("use_regex", true)) {
    stages.push_back(make_regex_split(Regex::compile(kByteLevelPattern, step.where),
                                      SplitBehavior::kIsolated, false));
  }
  stages.push_back(name_bytes);
  return stages;
}

enum class Prepend { kNever, kFirst, kAlways };

Prepend parse_prepend(const Step& step) {
  if (!step.json.contains("prepend_scheme")) {
    return step.boolean("add_prefix_space", true) ? Prepend::kAlways : Prepend::kNever;
  }
  const std::string scheme = step.string("prepend_scheme");
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    step.refuse("has the unknown prepend_scheme " + quote_name(scheme));
  }
  const Prepend prepend = scheme == "always"  ? Prepend::kAlways
                          : scheme == "first" ? Prepend::kFirst
                                              : Prepend::kNever;
  if (!step.boolean("add_prefix_space", true) && prepend != Prepend::kNever) {
    step.refuse("add_prefix_space is false but prepend_scheme is " + scheme);
  }
  return prepend;
}

void replace_spaces(Piece& piece, const std::string& mark, Prepend prepend) {
  rewrite_bytes(piece, [&](const char& c) {
    return c == ' ' ? std::string_view(mark) : std::string_view(&c, 1);
  });
  const bool wanted =
      prepend == Prepend::kAlways || (prepend == Prepend::kFirst && piece.start_bytes > 0);
  if (wanted && !piece.text.starts_with(mark)) piece.prepend(mark);
}

std::vector<SplitStage> make_metaspace(const Step& step) {
  const char32_t mark_point = step.character("replacement");
  std::string mark;
  append_utf8(mark, mark_point);
  const Prepend prepend = parse_prepend(step);
  std::vector<SplitStage> stages = {[mark, prepend](Pieces& pieces) {
    for (Piece& piece : pieces) {
      if (piece.id < 0) replace_spaces(piece, mark, prepend);
    }
  }};
  if (step.boolean("split", true)) {
    stages.push_back([mark_point](Pieces& pieces) {
      split_pieces(pieces, SplitBehavior::kMergedWithNext, [&](const std::string& text) {
        return find_characters(text, [&](char32_t point) { return point == mark_point; });
      });
    });
  }
  return stages;
}

std::vector<SplitStage> make_sequence(const Step& step) {
  std::vector<SplitStage> stages;
  for (const Step& inner : step.steps("pretokenizers")) {
    std::vector<SplitStage> more = make_pre_tokenizer(inner);
    stages.insert(stages.end(), std::make_move_iterator(more.begin()),
                  std::make_move_iterator(more.end()));
    stages.push_back([where = inner.where](Pieces& pieces) {
      std::size_t bytes = 0;
      for (const Piece& piece : pieces) bytes += piece.text.size();
      check_growth(bytes, where);
    });
  }
  return stages;
}

}  // namespace

std::vector<SplitStage> make_pre_tokenizer(const Step& step) {
  using enum SplitBehavior;
  if (step.json.is_null()) return {};
  const std::string type = step.type();
  if (type == "ByteLevel") return make_byte_level(step);
  if (type == "Metaspace") return make_metaspace(step);
  if (type == "Sequence") return make_sequence(step);
  if (type == "Split") {
    if (!step.json.contains("behavior")) step.refuse("has no behavior");
    return {make_regex_split(step.pattern(), parse_behavior(step, kIsolated),
                             step.boolean("invert", false))};
  }
  if (type == "Digits") {
    return {make_character_split(
        is_number, step.boolean("individual_digits", false) ? kIsolated : kContiguous)};
  }
  if (type == "Punctuation")
    return {make_character_split(is_punctuation, parse_behavior(step, kIsolated))};
  if (type == "WhitespaceSplit") return {make_character_split(is_whitespace, kRemoved)};
  if (type == "BertPreTokenizer") {
    return {make_character_split(is_whitespace, kRemoved),
            make_character_split(is_punctuation, kIsolated)};
  }
  if (type == "Whitespace") {
    return {make_regex_split(
        Regex::compile(R"([\w\x{200c}\x{200d}]+|[^\w\x{200c}\x{200d}\s]+)", step.where), kRemoved,
        true)};
  }
  if (type == "CharDelimiterSplit") {
    const char32_t delimiter = step.character("delimiter");
    return {[delimiter](Pieces& pieces) {
      split_pieces(pieces, kRemoved, [&](const std::string& text) {
        return find_characters(text, [&](char32_t point) { return point == delimiter; });
      });
    }};
  }
  step.refuse_type();
}

}  // namespace tq::text
