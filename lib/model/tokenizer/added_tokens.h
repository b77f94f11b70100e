// The member "added_tokens" of tokenizer.json: strings that are one token wherever they stand in a
// text, before any other part of the tokenizer sees it.
#pragma once

#include <bitset>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "lib/model/tokenizer/bpe.h"
#include "lib/model/tokenizer/stage.h"

namespace tq::text {

struct AddedToken {
  std::string content;
  std::int32_t id = -1;
  bool single_word = false;  ///< only where no word character (see is_word()) stands beside it
  bool lstrip = false;       ///< takes the white space before it too
  bool rstrip = false;       ///< takes the white space after it too
  bool normalized = false;   ///< is searched, normalized itself, in the normalized text
  bool special = false;
};

/// Finds a set of strings in a text: the leftmost match, among these the longest; matches do not
/// overlap.
class StringFinder {
 public:
  /// `text` is not empty. The first of several equal strings counts.
  void add(std::string_view text, const AddedToken& token);
  struct Match {
    std::size_t begin, end;
    AddedToken token;
  };
  std::vector<Match> find_all(std::string_view text) const;

 private:
  std::unordered_map<std::uint64_t, std::uint32_t>
      edges_;  ///< node << 8 | byte to node; 0 is the root
  std::vector<std::optional<AddedToken>> nodes_ = {std::nullopt};
  std::bitset<256> first_;
};

class AddedTokens {
 public:
  /// Reads the array; null is empty. As in the published implementation a token has the id that the
  /// vocabulary gives its content, else the next free one: the member "id" is not read. Where
  /// several become the same text, special ones come first, then the order of the array. Error for
  /// anything but an array of objects with a string "content", and for a content that the
  /// normalizer makes empty.
  static AddedTokens parse(const Step& step, const Vocabulary& vocabulary,
                           const std::vector<NormalizeStage>& normalizer);

  /// Takes the tokens that are not `normalized` (or those that are) out of each piece of text.
  void extract(Pieces& pieces, bool normalized) const;

  /// nullptr if it is not an added token.
  const AddedToken* find(std::string_view content) const;
  const AddedToken* find(std::int32_t id) const;
  /// -1 if there are none.
  std::int32_t largest_id() const { return by_id_.empty() ? -1 : by_id_.rbegin()->first; }

 private:
  std::map<std::string, std::int32_t, std::less<>> ids_;
  std::map<std::int32_t, AddedToken> by_id_;
  StringFinder exact_;
  StringFinder normalized_;
};

}  // namespace tq::text
