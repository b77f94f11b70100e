#include "lib/model/tokenizer/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <queue>

#include "lib/error.h"
#include "lib/io/safetensors_header.h"
#include "lib/model/tokenizer/unicode.h"

namespace tq::text {
namespace {

constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();

std::uint64_t make_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

}  // namespace

bool Vocabulary::add(std::string piece, std::int32_t id) {
  const auto [place, is_new] = ids_.try_emplace(std::move(piece), id);
  if (!is_new) return false;
  pieces_[id] = &place->first;
  largest_ = std::max(largest_, id);
  return true;
}

std::optional<std::int32_t> Vocabulary::find(std::string_view piece) const {
  const auto found = ids_.find(piece);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

const std::string* Vocabulary::piece(std::int32_t id) const {
  const auto found = pieces_.find(id);
  return found == pieces_.end() ? nullptr : found->second;
}

/// One token so far, in a list by index. A symbol that was merged into its left neighbour is dead.
struct Bpe::Symbol {
  std::int32_t id;
  std::uint32_t previous = kNone;
  std::uint32_t next = kNone;
  bool dead = false;
};

/// A pair that can be merged: the symbol at `place` with the one after it.
struct Bpe::Queued {
  std::uint32_t rank;
  std::uint32_t place;
  std::int32_t id;
  bool operator>(const Queued& other) const {
    return rank != other.rank ? rank > other.rank : place > other.place;
  }
};

Bpe::Bpe(Vocabulary vocabulary, const std::vector<std::pair<std::string, std::string>>& merges,
         BpeOptions options, std::string where)
    : vocabulary_(std::move(vocabulary)), options_(std::move(options)), where_(std::move(where)) {
  merges_.reserve(merges.size());
  const std::size_t prefix = options_.continuing_subword_prefix.size();
  std::string joined;
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const auto& [left, right] = merges[i];
    const auto find = [&](const std::string& piece) {
      const std::optional<std::int32_t> id = vocabulary_.find(piece);
      if (!id)
        throw Error(fmt::format("{}.merges[{}]: {} is not in the vocabulary", where_, i,
                                quote_name(piece)));
      return *id;
    };
    const std::uint64_t key = make_key(find(left), find(right));
    if (right.size() < prefix) {
      throw Error(fmt::format("{}.merges[{}]: {} is shorter than the continuing_subword_prefix",
                              where_, i, quote_name(right)));
    }
    joined.assign(left).append(right, prefix);
    merges_.insert_or_assign(key, Merge{static_cast<std::uint32_t>(i), find(joined)});
  }
}

const Bpe::Merge* Bpe::find_merge(std::int32_t left, std::int32_t right) const {
  const auto found = merges_.find(make_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

bool Bpe::append_bytes(std::string_view character, std::vector<Symbol>& symbols) const {
  std::vector<Symbol> bytes;
  for (const char c : character) {
    const std::optional<std::int32_t> id =
        vocabulary_.find(fmt::format("<0x{:02X}>", static_cast<unsigned char>(c)));
    if (!id) return false;
    bytes.push_back({*id});
  }
  symbols.insert(symbols.end(), bytes.begin(), bytes.end());
  return true;
}

std::vector<Bpe::Symbol> Bpe::split_characters(std::string_view word) const {
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  std::optional<std::int32_t> unknown;  // seen, and not appended yet: more may be fused with it
  const auto append_unknown = [&] {
    if (unknown) symbols.push_back({*unknown});
    unknown.reset();
  };
  std::string decorated;
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t bytes = decode_at(word, at).bytes;
    std::string_view character = word.substr(at, bytes);
    const bool last = at + bytes == word.size();
    if ((at > 0 && !options_.continuing_subword_prefix.empty()) ||
        (last && !options_.end_of_word_suffix.empty())) {
      decorated = at > 0 ? options_.continuing_subword_prefix : std::string();
      decorated += character;
      if (last) decorated += options_.end_of_word_suffix;
      character = decorated;
    }
    at += bytes;
    if (const std::optional<std::int32_t> id = vocabulary_.find(character)) {
      append_unknown();
      symbols.push_back({*id});
    } else if (options_.byte_fallback && append_bytes(character, symbols)) {
      // An unknown before these bytes stays pending and comes after them, as in the published
      // implementation.
    } else if (options_.unk_token) {
      const std::optional<std::int32_t> unk = vocabulary_.find(*options_.unk_token);
      if (!unk) {
        throw Error(
            fmt::format("{}: the text has a character that is not in the vocabulary, and neither "
                        "is unk_token {}",
                        where_, quote_name(*options_.unk_token)));
      }
      if (!options_.fuse_unk) append_unknown();
      unknown = unk;
    }
  }
  append_unknown();
  return symbols;
}

void Bpe::merge_symbols(std::vector<Symbol>& symbols) const {
  std::priority_queue<Queued, std::vector<Queued>, std::greater<>> queue;
  const auto offer = [&](std::uint32_t place) {
    const std::uint32_t next = symbols[place].next;
    if (next == kNone) return;
    if (const Merge* merge = find_merge(symbols[place].id, symbols[next].id))
      queue.push({merge->rank, place, merge->id});
  };
  const auto count = static_cast<std::uint32_t>(symbols.size());
  for (std::uint32_t i = 0; i < count; ++i) {
    symbols[i].previous = i > 0 ? i - 1 : kNone;
    symbols[i].next = i + 1 < count ? i + 1 : kNone;
  }
  for (std::uint32_t i = 0; i < count; ++i) offer(i);
  while (!queue.empty()) {
    const Queued top = queue.top();
    queue.pop();
    Symbol& left = symbols[top.place];
    if (left.dead || left.next == kNone) continue;
    Symbol& right = symbols[left.next];
    const Merge* merge = find_merge(left.id, right.id);
    if (merge == nullptr || merge->id != top.id) continue;  // one of the two has changed since
    left.id = top.id;
    left.next = right.next;
    right.dead = true;
    if (left.next != kNone) symbols[left.next].previous = top.place;
    if (left.previous != kNone) offer(left.previous);
    offer(top.place);
  }
}

void Bpe::append_ids(std::string_view word, std::vector<std::int32_t>& ids) const {
  if (options_.ignore_merges) {
    if (const std::optional<std::int32_t> id = vocabulary_.find(word)) {
      ids.push_back(*id);
      return;
    }
  }
  std::vector<Symbol> symbols = split_characters(word);
  merge_symbols(symbols);
  for (const Symbol& symbol : symbols) {
    if (!symbol.dead) ids.push_back(symbol.id);
  }
}

}  // namespace tq::text
