// The model of a BPE tokenizer: a vocabulary, and merges in the order of their rank.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace tq::text {

/// Pieces and their ids; both ways in constant time.
class Vocabulary {
 public:
  Vocabulary() = default;
  Vocabulary(Vocabulary&&) = default;  // not copied: pieces_ points into ids_
  Vocabulary& operator=(Vocabulary&&) = default;

  /// False, and nothing changed, if the piece is there already. Several pieces may have one id; the
  /// last names it.
  bool add(std::string piece, std::int32_t id);
  std::optional<std::int32_t> find(std::string_view piece) const;
  /// nullptr for an id that has no piece.
  const std::string* piece(std::int32_t id) const;
  std::size_t size() const { return ids_.size(); }
  /// -1 if empty.
  std::int32_t largest_id() const { return largest_; }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>{}(text);
    }
  };
  std::unordered_map<std::string, std::int32_t, Hash, std::equal_to<>> ids_;
  std::unordered_map<std::int32_t, const std::string*> pieces_;
  std::int32_t largest_ = -1;
};

/// What tokenizer.json says of its model besides vocabulary and merges.
struct BpeOptions {
  std::optional<std::string> unk_token;
  /// Neighbouring unknown characters become one unk_token.
  bool fuse_unk = false;
  /// An unknown character becomes its bytes <0x00>..<0xFF>, if all of them are in the vocabulary.
  bool byte_fallback = false;
  /// A word that is in the vocabulary is one token, whatever the merges say.
  bool ignore_merges = false;
  std::string continuing_subword_prefix;  ///< of each character but the first of a word
  std::string end_of_word_suffix;         ///< of the last character of a word
};

class Bpe {
 public:
  /// Merge i joins the pieces merges[i].first and .second. Error, beginning with `where` and naming
  /// the merge, if one of the two or what they make is not in the vocabulary.
  Bpe(Vocabulary vocabulary, const std::vector<std::pair<std::string, std::string>>& merges,
      BpeOptions options, std::string where);

  const Vocabulary& vocabulary() const { return vocabulary_; }

  /// Appends the ids of one word (valid UTF-8): its characters, merged lowest rank first and
  /// leftmost first among equals. O(n log n) for a word of n characters. A character that is
  /// neither in the vocabulary nor covered by byte_fallback is unk_token, or nothing where there is
  /// none. Error if unk_token is needed and not in the vocabulary.
  void append_ids(std::string_view word, std::vector<std::int32_t>& ids) const;

 private:
  struct Merge {
    std::uint32_t rank;
    std::int32_t id;
  };
  struct Queued;
  struct Symbol;

  std::vector<Symbol> split_characters(std::string_view word) const;
  bool append_bytes(std::string_view character, std::vector<Symbol>& symbols) const;
  void merge_symbols(std::vector<Symbol>& symbols) const;
  const Merge* find_merge(std::int32_t left, std::int32_t right) const;

  Vocabulary vocabulary_;
  BpeOptions options_;
  std::string where_;
  std::unordered_map<std::uint64_t, Merge> merges_;  ///< by left id << 32 | right id
};

}  // namespace tq::text
