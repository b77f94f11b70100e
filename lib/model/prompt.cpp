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
  prompt.file = options.token_ids.empty() ? options.file : options.token_ids;
  if (prompt.file == "-") prompt.file = "/dev/stdin";
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
    prompt.source = kDefaultPassage;
  }
  prompt.available = static_cast<std::int64_t>(prompt.ids.size());
  return prompt;
}

}  // namespace

std::string describe_tokens(std::int64_t tokens, std::int64_t available, const std::string& source) {
  if (tokens < available && source != kDefaultPassage) return fmt::format("the first {} of {} tokens of {}", tokens, available, source);
  return fmt::format("{} {} of {}", tokens, tokens == 1 ? "token" : "tokens", source);
}

Prompt read_prompt(const Model& model, const PromptOptions& options) {
  const std::int64_t context = model.config().context;
  if (options.tokens && *options.tokens > context) {
    throw Error(fmt::format("--tokens {} is more than the context of {} holds: {} tokens", *options.tokens, model.dir(), context));
  }
  Prompt prompt = read_source(model, options);
  if (options.tokens && *options.tokens > prompt.available) {
    throw Error(fmt::format("{} has only {} tokens; lower --tokens, or give a longer text", prompt.source, prompt.available));
  }
  const std::int64_t wanted = options.tokens.value_or(std::min(kDefaultTokens, context));
  prompt.ids.resize(static_cast<std::size_t>(std::min(wanted, prompt.available)));
  check_tokens(model, prompt.ids);
  return prompt;
}

}  // namespace tq
