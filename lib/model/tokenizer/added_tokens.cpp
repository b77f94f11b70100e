#include "lib/model/tokenizer/added_tokens.h"

#include <algorithm>

#include "lib/io/safetensors_header.h"
#include "lib/model/tokenizer/normalizer.h"
#include "lib/model/tokenizer/unicode.h"

namespace tq::text {
namespace {

std::uint64_t make_edge(std::uint32_t node, char c) {
  return static_cast<std::uint64_t>(node) << 8 | static_cast<unsigned char>(c);
}

AddedToken parse_token(const Step& step) {
  if (!step.json.is_object()) step.refuse("is not an object");
  AddedToken token;
  token.content = step.string("content");
  token.single_word = step.boolean("single_word", false);
  token.lstrip = step.boolean("lstrip", false);
  token.rstrip = step.boolean("rstrip", false);
  token.special = step.boolean("special", false);
  token.normalized = step.boolean("normalized", !token.special);
  return token;
}

bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
  return (begin == 0 || !is_word(decode_before(text, begin).value)) &&
         (end == text.size() || !is_word(decode_at(text, end).value));
}

std::size_t skip_spaces_back(std::string_view text, std::size_t at) {
  while (at > 0 && is_whitespace(decode_before(text, at).value))
    at -= decode_before(text, at).bytes;
  return at;
}

std::size_t skip_spaces(std::string_view text, std::size_t at) {
  while (at < text.size() && is_whitespace(decode_at(text, at).value))
    at += decode_at(text, at).bytes;
  return at;
}

/// Appends the parts of one piece of text. The order of the steps, and what they do where the white
/// space of one token reaches into the next, is that of the published implementation.
void extract_from(const Piece& piece, const StringFinder& finder, Pieces& parts) {
  const std::string& text = piece.text;
  std::size_t done = 0;
  const auto append_text = [&](std::size_t end) {
    if (done < end) parts.push_back(piece.part(done, end));
  };
  for (const StringFinder::Match& match : finder.find_all(text)) {
    if (match.token.single_word && !stands_alone(text, match.begin, match.end)) continue;
    const std::size_t begin =
        match.token.lstrip ? std::max(skip_spaces_back(text, match.begin), done) : match.begin;
    const std::size_t end = match.token.rstrip ? skip_spaces(text, match.end) : match.end;
    append_text(begin);
    if (begin < end) parts.push_back({text.substr(begin, end - begin), 0, match.token.id});
    done = end;
  }
  append_text(text.size());
}

}  // namespace

void StringFinder::add(std::string_view text, const AddedToken& token) {
  first_.set(static_cast<unsigned char>(text[0]));
  std::uint32_t node = 0;
  for (const char c : text) {
    const auto [edge, is_new] =
        edges_.try_emplace(make_edge(node, c), static_cast<std::uint32_t>(nodes_.size()));
    if (is_new) nodes_.emplace_back();
    node = edge->second;
  }
  if (!nodes_[node]) nodes_[node] = token;
}

std::vector<StringFinder::Match> StringFinder::find_all(std::string_view text) const {
  std::vector<Match> matches;
  for (std::size_t begin = 0; begin < text.size();) {
    const AddedToken* longest = nullptr;
    std::size_t longest_end = begin;
    std::uint32_t node = 0;
    for (std::size_t at = begin;
         first_[static_cast<unsigned char>(text[begin])] && at < text.size(); ++at) {
      const auto edge = edges_.find(make_edge(node, text[at]));
      if (edge == edges_.end()) break;
      node = edge->second;
      if (nodes_[node]) {
        longest = &*nodes_[node];
        longest_end = at + 1;
      }
    }
    if (longest != nullptr) matches.push_back({begin, longest_end, *longest});
    begin = longest != nullptr ? longest_end : begin + 1;
  }
  return matches;
}

AddedTokens AddedTokens::parse(const Step& step, const Vocabulary& vocabulary,
                               const std::vector<NormalizeStage>& normalizer) {
  AddedTokens added;
  if (step.json.is_null()) return added;
  if (!step.json.is_array()) step.refuse("is not an array");
  std::vector<std::int32_t> order;
  const auto model_size = static_cast<std::int32_t>(vocabulary.size());
  for (std::size_t i = 0; i < step.json.size(); ++i) {
    AddedToken token = parse_token({step.json[i], step.where + "[" + std::to_string(i) + "]"});
    if (token.content.empty()) continue;
    if (const AddedToken* known = added.find(token.content)) {
      token.id = known->id;
    } else if (const std::optional<std::int32_t> id = vocabulary.find(token.content)) {
      token.id = *id;
    } else {
      token.id = std::max(added.largest_id() + 1, model_size);
    }
    order.push_back(token.id);
    added.ids_.insert_or_assign(token.content, token.id);
    added.by_id_.insert_or_assign(token.id, std::move(token));
  }
  std::stable_partition(order.begin(), order.end(),
                        [&](std::int32_t id) { return added.by_id_.at(id).special; });
  for (const std::int32_t id : order) {
    const AddedToken& token = added.by_id_.at(id);
    Piece pattern{token.content, 0, -1};
    if (token.normalized) normalize(normalizer, pattern);
    if (pattern.text.empty())
      step.refuse(quote_name(token.content) + " is nothing once it is normalized");
    (token.normalized ? added.normalized_ : added.exact_).add(pattern.text, token);
  }
  return added;
}

void AddedTokens::extract(Pieces& pieces, bool normalized) const {
  Pieces parts;
  for (Piece& piece : pieces) {
    if (piece.id >= 0)
      parts.push_back(std::move(piece));
    else
      extract_from(piece, normalized ? normalized_ : exact_, parts);
  }
  pieces = std::move(parts);
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto found = ids_.find(content);
  return found == ids_.end() ? nullptr : &by_id_.at(found->second);
}

const AddedToken* AddedTokens::find(std::int32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &found->second;
}

}  // namespace tq::text
