#include "lib/model/prompt.h"

#include <fmt/format.h>

#include <algorithm>

#include "lib/error.h"
#include "lib/model/passage.h"
#include "lib/model/text_input.h"
#include "lib/model/tokenizer.h"

namespace tq {
namespace {

std::vector<std::int32_t> encode(const Model& model, std::string_view text) {
  return Tokenizer::open(model.dir()).encode(text, true);
}

Prompt read_source(const Model& model, const PromptOptions& options) {
  Prompt prompt;
  if (!options.token_ids.empty()) {
    prompt.ids = read_token_ids(options.token_ids);
    prompt.source = options.token_ids;
  } else if (!options.file.empty()) {
    prompt.ids = encode(model, read_text(options.file));
    prompt.source = options.file;
  } else if (options.text) {
    prompt.ids = encode(model, *options.text);
    prompt.source = "--prompt";
  } else {
    prompt.ids = encode(model, default_passage());
    prompt.source = "the default passage";
  }
  prompt.available = static_cast<std::int64_t>(prompt.ids.size());
  return prompt;
}

}  // namespace

Prompt read_prompt(const Model& model, const PromptOptions& options) {
  const std::int64_t context = model.config().context;
  if (options.tokens && *options.tokens > context) {
    throw Error(fmt::format("--tokens {} is more than the context of {} holds: {} tokens", *options.tokens, model.dir(), context));
  }
  Prompt prompt = read_source(model, options);
  if (options.tokens && *options.tokens > prompt.available) {
    throw Error(fmt::format("{} has only {} tokens; lower --tokens, or give a longer text", prompt.source, prompt.available));
  }
  const bool whole = options.text || !options.token_ids.empty();
  if (!options.tokens && whole && prompt.available > context) {
    throw Error(fmt::format("{} has {} tokens, and the context of {} holds {}; --tokens N takes the first N", prompt.source,
                            prompt.available, model.dir(), context));
  }
  const std::int64_t wanted = options.tokens.value_or(std::min(kDefaultTokens, context));
  prompt.ids.resize(static_cast<std::size_t>(std::min(wanted, prompt.available)));
  check_tokens(model, prompt.ids);
  return prompt;
}

}  // namespace tq
