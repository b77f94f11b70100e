// The member "pre_tokenizer" of tokenizer.json: where words begin. No token of the model reaches
// over such an edge.
#pragma once

#include <vector>

#include "lib/model/tokenizer/stage.h"

namespace tq::text {

/// The stages of a pre-tokenizer, in order; none for null. Understood: ByteLevel, Split, Metaspace,
/// Digits, Punctuation, Whitespace, WhitespaceSplit, BertPreTokenizer, CharDelimiterSplit,
/// Sequence. Error for every other type (UnicodeScripts ...), for members of a wrong type, and for
/// a regular expression that is not understood.
std::vector<SplitStage> make_pre_tokenizer(const Step& step);

}  // namespace tq::text
