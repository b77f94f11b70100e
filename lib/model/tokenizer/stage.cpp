#include "lib/model/tokenizer/stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "lib/error.h"
#include "lib/io/safetensors_header.h"
#include "lib/model/tokenizer/pattern.h"
#include "lib/model/tokenizer/unicode.h"

namespace tq::text {
namespace {

/// Joins spans as the behavior says; in the result is_match marks what is to be dropped.
std::vector<Span> apply_behavior(std::vector<Span> spans, SplitBehavior behavior) {
  if (behavior == SplitBehavior::kRemoved) return spans;
  std::vector<Span> parts;
  const auto keep = [&](const Span& span) { parts.push_back({span.begin, span.end, false}); };
  bool previous = false;
  if (behavior == SplitBehavior::kMergedWithNext) {
    for (auto span = spans.rbegin(); span != spans.rend(); previous = span->is_match, ++span) {
      if (span->is_match && !previous && !parts.empty())
        parts.back().begin = span->begin;
      else
        keep(*span);
    }
    return {parts.rbegin(), parts.rend()};
  }
  for (const Span& span : spans) {
    const bool join = behavior == SplitBehavior::kContiguous           ? span.is_match == previous
                      : behavior == SplitBehavior::kMergedWithPrevious ? span.is_match && !previous
                                                                       : false;
    if (join && !parts.empty())
      parts.back().end = span.end;
    else
      keep(span);
    previous = span.is_match;
  }
  return parts;
}

}  // namespace

Piece Piece::part(std::size_t begin, std::size_t end) const {
  const std::size_t from_start = start_bytes > begin ? std::min(start_bytes, end) - begin : 0;
  return {text.substr(begin, end - begin), from_start, -1};
}

void Piece::prepend(const std::string& prefix) {
  text.insert(0, prefix);
  if (start_bytes > 0) start_bytes += prefix.size();
}

void Step::refuse(const std::string& what) const {
  throw Error(fmt::format("{}: {}", where, what));
}

std::string Step::type() const {
  if (!json.is_object()) refuse("is not an object");
  return string("type");
}

void Step::refuse_type() const {
  refuse(
      fmt::format("type {} is not supported; tq reads BPE tokenizers (byte-level, or "
                  "SentencePiece-style with byte fallback)",
                  quote_name(type())));
}

bool Step::boolean(const char* key, bool otherwise) const {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return otherwise;
  if (!found->is_boolean()) refuse(fmt::format("{} is neither true nor false", key));
  return found->get<bool>();
}

std::string Step::string(const char* key) const {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_string()) refuse(fmt::format("has no string {}", key));
  return found->get<std::string>();
}

char32_t Step::character(const char* key) const {
  const std::string text = string(key);
  const CodePoint point = text.empty() ? CodePoint{0, 1} : decode_at(text, 0);
  if (text.size() != point.bytes) refuse(fmt::format("{} is not one character", key));
  return point.value;
}

Regex Step::pattern() const {
  const auto found = json.find("pattern");
  if (found == json.end() || !found->is_object() || found->size() != 1)
    refuse("has no pattern, Regex or String");
  const Step inner{*found, where + ".pattern"};
  if (found->contains("Regex")) return Regex::compile(inner.string("Regex"), inner.where);
  return Regex::compile(escape_pattern(inner.string("String")), inner.where);
}

std::vector<Step> Step::steps(const char* key) const {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_array()) refuse(fmt::format("has no array {}", key));
  std::vector<Step> steps;
  for (std::size_t i = 0; i < found->size(); ++i)
    steps.push_back({(*found)[i], fmt::format("{}.{}[{}]", where, key, i)});
  return steps;
}

SplitBehavior parse_behavior(const Step& step, SplitBehavior otherwise) {
  static const std::map<std::string, SplitBehavior> kNames = {
      {"Removed", SplitBehavior::kRemoved},
      {"Isolated", SplitBehavior::kIsolated},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous}};
  if (!step.json.contains("behavior")) return otherwise;
  const auto found = kNames.find(step.string("behavior"));
  if (found == kNames.end())
    step.refuse("has the unknown behavior " + quote_name(step.string("behavior")));
  return found->second;
}

void split_pieces(Pieces& pieces, SplitBehavior behavior,
                  const std::function<std::vector<Span>(const std::string&)>& spans) {
  Pieces parts;
  for (Piece& piece : pieces) {
    if (piece.id >= 0) {
      parts.push_back(std::move(piece));
      continue;
    }
    for (const Span& span : apply_behavior(spans(piece.text), behavior)) {
      if (span.is_match || span.begin == span.end) continue;
      parts.push_back(piece.part(span.begin, span.end));
    }
  }
  pieces = std::move(parts);
}

void check_growth(std::size_t bytes, const std::string& where) {
  if (bytes <= kMostTextBytes) return;
  throw Error(fmt::format("{}: makes the text longer than {} bytes; use a shorter text", where,
                          kMostTextBytes));
}

}  // namespace tq::text
