#include "lib/model/tokenizer/pattern.h"

#include <fmt/format.h>

#include <cctype>
#include <map>
#include <optional>
#include <vector>

#include "lib/error.h"
#include "lib/io/safetensors_header.h"
#include "lib/model/tokenizer/unicode.h"

namespace tq::text {
namespace {

// Bodies of sets.
constexpr std::string_view kSpace =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kNotSpace =
    R"(\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
    R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
constexpr std::string_view kWord =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";
constexpr std::string_view kLatinNumbers = R"(\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";  // word characters, but not in a set
constexpr std::string_view kHex = "0-9A-Fa-f";

bool is_ascii_alnum(char c) {
  return static_cast<unsigned char>(c) < 0x80 && std::isalnum(static_cast<unsigned char>(c));
}

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : in_(pattern), where_(where) {}

  std::string run() {
    if (in_.starts_with("(?i)")) take(4);
    while (at_ < in_.size()) step();
    if (!groups_.empty()) refuse("a group that is not closed");
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(fmt::format(
        "{}: the regular expression {} has {} at its byte offset {}, which tq does not know",
        where_, quote_name(in_), what, at_));
  }

  bool next_is(std::string_view text) const { return in_.substr(at_).starts_with(text); }
  void take(std::size_t count) {
    out_ += in_.substr(at_, count);
    at_ += count;
  }
  void begin_atom() { atom_ = out_.size(); }

  void step() {
    switch (in_[at_]) {
      case '\\':
        return take_escape();
      case '[':
        return take_set();
      case '(':
        return open_group();
      case ')':
        return close_group();
      case '{':
        return take_interval();
      case '*':
      case '+':
      case '?':
        return take_quantifier();
      case '|':
      case '^':
      case '$':
        begin_atom();
        return take(1);
      default:
        begin_atom();
        return take(decode_at(in_, at_).bytes);
    }
  }

  void open_group() {
    static constexpr std::string_view kOpenings[] = {
        "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:"};
    groups_.push_back(out_.size());
    for (const std::string_view opening : kOpenings) {
      if (next_is(opening)) return take(opening.size());
    }
    if (next_is("(?") || next_is("(*"))
      refuse("a group of the kind " + quote_name(in_.substr(at_, 4)));
    take(1);
  }

  void close_group() {
    if (groups_.empty()) refuse("a ) without its (");
    atom_ = groups_.back();
    groups_.pop_back();
    take(1);
  }

  void take_quantifier() {
    take(1);
    if (next_is("?") || next_is("+")) take(1);
  }

  void wrap_atom() {
    out_.insert(atom_, "(?:");
    out_ += ')';
  }

  void take_interval() {
    std::size_t end = at_ + 1;
    const auto take_digits = [&] {
      const std::size_t begin = end;
      while (end < in_.size() && std::isdigit(static_cast<unsigned char>(in_[end]))) ++end;
      return std::string(in_.substr(begin, end - begin));
    };
    const std::string low = take_digits();
    const bool comma = end < in_.size() && in_[end] == ',';
    if (comma) ++end;
    const std::string high = comma ? take_digits() : std::string();
    if (end >= in_.size() || in_[end] != '}' || (low.empty() && high.empty())) {
      begin_atom();
      out_ += "\\{";
      ++at_;
      return;
    }
    at_ = end + 1;
    out_ += fmt::format("{{{}{}}}", low.empty() ? "0" : low, comma ? "," + high : "");
    if (next_is("+") || (next_is("?") && !comma)) {
      wrap_atom();
    } else if (next_is("?")) {
      take(1);
    }
  }

  // Escapes that mean the same in and out of a set. What begins at `\`.
  bool take_common_escape() {
    static const std::map<char, std::string_view> kCharacters = {
        {'n', R"(\x{a})"},  {'r', R"(\x{d})"},  {'t', R"(\x{9})"},
        {'f', R"(\x{c})"},  {'v', R"(\x{b})"},  {'a', R"(\x{7})"},
        {'e', R"(\x{1b})"}, {'d', R"(\p{Nd})"}, {'D', R"(\P{Nd})"}};
    const char c = in_[at_ + 1];
    if (const auto found = kCharacters.find(c); found != kCharacters.end()) {
      out_ += found->second;
      at_ += 2;
    } else if (c == 'p' || c == 'P') {
      take_property();
    } else if (c == 'x' || c == 'u') {
      take_number();
    } else if (!is_ascii_alnum(c)) {
      if (static_cast<unsigned char>(c) >= 0x80) ++at_;
      take(static_cast<unsigned char>(c) >= 0x80 ? decode_at(in_, at_).bytes : 2);
    } else {
      return false;
    }
    return true;
  }

  void take_property() {
    static const std::map<std::string_view, std::string_view> kLong = {
        {"Letter", "L"}, {"Mark", "M"},      {"Number", "N"}, {"Punctuation", "P"},
        {"Symbol", "S"}, {"Separator", "Z"}, {"Other", "C"}};
    const std::size_t close = in_.find('}', at_);
    if (at_ + 2 >= in_.size() || in_[at_ + 2] != '{' || close == std::string_view::npos)
      refuse("a property without {}");
    std::string_view name = in_.substr(at_ + 3, close - at_ - 3);
    const bool negated = name.starts_with('^');
    if (negated) name.remove_prefix(1);
    for (const char c : name) {
      if (!is_ascii_alnum(c) && c != '_') refuse("a property named " + quote_name(name));
    }
    if (const auto found = kLong.find(name); found != kLong.end()) name = found->second;
    out_ += fmt::format("\\{}{{{}{}{}}}", in_[at_ + 1], negated ? "^" : "",
                        name.size() > 2 ? "sc:" : "", name);
    at_ = close + 1;
  }

  void take_number() {
    const bool braces = in_[at_ + 1] == 'x' && at_ + 2 < in_.size() && in_[at_ + 2] == '{';
    const std::size_t begin = at_ + (braces ? 3 : 2);
    const std::size_t most = braces ? 8 : in_[at_ + 1] == 'x' ? 2 : 4;
    std::size_t end = begin;
    while (end < in_.size() && end - begin < most &&
           std::isxdigit(static_cast<unsigned char>(in_[end])))
      ++end;
    const bool whole = braces                ? end > begin && end < in_.size() && in_[end] == '}'
                       : in_[at_ + 1] == 'x' ? end > begin
                                             : end - begin == 4;
    const unsigned long value =
        whole ? std::stoul(std::string(in_.substr(begin, end - begin)), nullptr, 16) : 0;
    if (!whole || (!braces && in_[at_ + 1] == 'x' && value >= 0x80))
      refuse("an unfinished \\x or \\u, or a single byte of UTF-8");
    out_ += fmt::format("\\x{{{:x}}}", value);
    at_ = end + (braces ? 1 : 0);
  }

  void take_escape() {
    if (at_ + 1 >= in_.size()) refuse("a \\ at its end");
    begin_atom();
    const auto emit = [&](const std::string& text) {
      out_ += text;
      at_ += 2;
    };
    const std::string word = fmt::format("{}{}", kWord, kLatinNumbers);
    switch (in_[at_ + 1]) {
      case 's':
        return emit(fmt::format("[{}]", kSpace));
      case 'S':
        return emit(fmt::format("[^{}]", kSpace));
      case 'w':
        return emit(fmt::format("[{}]", word));
      case 'W':
        return emit(fmt::format("[^{}]", word));
      case 'h':
        return emit(fmt::format("[{}]", kHex));
      case 'H':
        return emit(fmt::format("[^{}]", kHex));
      case 'b':
        return emit(fmt::format("(?:(?<=[{0}])(?![{0}])|(?<![{0}])(?=[{0}]))", word));
      case 'B':
        return emit(fmt::format("(?:(?<=[{0}])(?=[{0}])|(?<![{0}])(?![{0}]))", word));
      case 'A':
      case 'z':
      case 'Z':
        return emit(std::string(in_.substr(at_, 2)));
      default:
        if (!take_common_escape()) refuse("the escape " + quote_name(in_.substr(at_, 2)));
    }
  }

  void take_set() {
    begin_atom();
    take(1);
    if (next_is("^")) take(1);
    if (next_is("]")) {
      out_ += "\\]";
      ++at_;
    }
    bool after_class = false;  // a - beside a class such as \s is a character; the expansion must
                               // not make it a range
    while (at_ < in_.size() && in_[at_] != ']') {
      if (next_is("[")) refuse("a set inside a set");
      if (next_is("&&")) refuse("an intersection of sets");
      if (next_is("-") && (after_class || begins_class(at_ + 1))) {
        out_ += "\\-";
        ++at_;
        after_class = false;
        continue;
      }
      after_class = begins_class(at_);
      if (next_is("\\")) {
        take_set_escape();
      } else {
        take(decode_at(in_, at_).bytes);
      }
    }
    if (at_ >= in_.size()) refuse("a [ without its ]");
    take(1);
  }

  bool begins_class(std::size_t at) const {
    return at + 1 < in_.size() && in_[at] == '\\' &&
           std::string_view("sSwdDhpP").find(in_[at + 1]) != std::string_view::npos;
  }

  void take_set_escape() {
    if (at_ + 1 >= in_.size()) refuse("a \\ at its end");
    const char c = in_[at_ + 1];
    const std::string_view body = c == 's'   ? kSpace
                                  : c == 'S' ? kNotSpace
                                  : c == 'w' ? kWord
                                  : c == 'h' ? kHex
                                             : "";
    if (!body.empty()) {
      out_ += body;
      at_ += 2;
    } else if (!take_common_escape()) {
      refuse("the escape " + quote_name(in_.substr(at_, 2)) + " in a set");
    }
  }

  std::string_view in_;
  const std::string& where_;
  std::string out_;
  std::size_t at_ = 0;
  std::size_t atom_ = 0;             ///< where the last atom begins in out_
  std::vector<std::size_t> groups_;  ///< where each open group begins in out_
};

}  // namespace

std::string translate_pattern(std::string_view pattern, const std::string& where) {
  return Translator(pattern, where).run();
}

std::string escape_pattern(std::string_view text) {
  std::string pattern;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x80 && !is_ascii_alnum(c))
      pattern += fmt::format("\\x{{{:x}}}", static_cast<unsigned>(c));
    else
      pattern += c;
  }
  return pattern;
}

}  // namespace tq::text
