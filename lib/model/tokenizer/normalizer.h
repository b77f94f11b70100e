// The member "normalizer" of tokenizer.json: what is done to text before it is split.
#pragma once

#include <vector>

#include "lib/model/tokenizer/stage.h"

namespace tq::text {

/// The stages of a normalizer, in order; none for null. Understood: NFC, NFD, NFKC, NFKD,
/// Lowercase, StripAccents, Strip, Replace, Prepend, Sequence. Error for every other type
/// (Precompiled, Nmt, BertNormalizer ...) and for members of a wrong type.
std::vector<NormalizeStage> make_normalizer(const Step& step);

/// Runs the stages over one text; a piece that became empty has the empty text.
void normalize(const std::vector<NormalizeStage>& stages, Piece& piece);

}  // namespace tq::text
