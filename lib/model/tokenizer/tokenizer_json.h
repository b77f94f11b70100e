// The text of a tokenizer.json, read in one pass: vocabulary and merges, which are nearly all of
// it, go straight into their tables; the rest becomes a small JSON tree.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lib/model/tokenizer/bpe.h"
#include "lib/model/tokenizer/stage.h"

namespace tq::text {

struct TokenizerJson {
  Json rest;  ///< an object, without model.vocab and model.merges
  bool has_vocabulary = false;
  bool has_merges = false;
  Vocabulary vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;
};

/// Parses the text of the file `where`. A vocabulary that is not an object (Unigram's) is passed
/// over. Error, in one line that begins with `where`, unless: it is one JSON object in UTF-8 that
/// nests at most 64 deep; no object has a key twice; ids are integers from 0 to 2^31-1; each merge
/// is "LEFT RIGHT" with one space, or [LEFT, RIGHT].
TokenizerJson parse_tokenizer_json(std::string_view text, const std::string& where);

}  // namespace tq::text
