// The member "post_processor" of tokenizer.json: the special tokens around a text.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/model/tokenizer/stage.h"

namespace tq::text {

/// The ids that stand before and after those of the text.
struct Frame {
  std::vector<std::int32_t> before;
  std::vector<std::int32_t> after;
};

/// What a post-processor puts around a single text; nothing for null. Understood:
/// TemplateProcessing (whose template for one text has $A once), BertProcessing, RobertaProcessing,
/// ByteLevel (adds nothing), Sequence. Error for every other type and for a special token that has
/// no ids.
Frame make_frame(const Step& step);

}  // namespace tq::text
