#include "lib/model/prompt.h"

#include <fmt/format.h>

#include <algorithm>

#include "lib/error.h"
#include "lib/model/passage.h"
#include "lib/model/text_input.h"
#include "lib/model/tokenizer.h"

namespace tq {
namespace {

/// A source with all its tokens, and those of them that the tokenizer put first.
struct Source : Prompt {
  std::int64_t special = 0;
};

void encode(const Model& model, std::string_view text, Source& source) {
  const Tokenizer tokenizer = Tokenizer::open(model.dir());
  source.ids = tokenizer.encode(text, true);
  const std::vector<std::int32_t> bare = tokenizer.encode(text, false);
  const auto begin = std::search(source.ids.begin(), source.ids.end(), bare.begin(), bare.end());
  source.special = begin == source.ids.end() ? 0 : begin - source.ids.begin();
}

Source read_source(const Model& model, const PromptOptions& options) {
  Source prompt;
  prompt.file = options.token_ids.empty() ? options.file : options.token_ids;
  if (prompt.file == "-") prompt.file = "/dev/stdin";
  if (!options.token_ids.empty()) {
    prompt.ids = read_token_ids(options.token_ids);
    prompt.source = options.token_ids;
  } else if (!options.file.empty()) {
    encode(model, read_text(options.file), prompt);
    prompt.source = options.file;
  } else if (options.text) {
    encode(model, *options.text, prompt);
    prompt.source = "--prompt";
  } else {
    encode(model, default_passage(), prompt);
    prompt.source = kDefaultPassage;
  }
  prompt.available = static_cast<std::int64_t>(prompt.ids.size());
  return prompt;
}

[[noreturn]] void refuse_short(const Source& source, std::int64_t available) {
  throw Error(fmt::format("{} has only {} tokens; lower --tokens, or give a longer text", source.source, available));
}

/// Tokens of all windows, the special ones of each counted.
std::int64_t window_tokens(const Source& source, std::int64_t stride) {
  const std::int64_t text = source.available - source.special;
  return text + (text + stride - 1) / stride * source.special;
}

}  // namespace

std::string describe_tokens(std::int64_t tokens, std::int64_t available, const std::string& source) {
  if (tokens < available && source != kDefaultPassage) return fmt::format("the first {} of {} tokens of {}", tokens, available, source);
  return fmt::format("{} {} of {}", tokens, tokens == 1 ? "token" : "tokens", source);
}

std::int64_t TextWindows::tokens() const {
  std::int64_t count = 0;
  for (const auto& one : ids) count += static_cast<std::int64_t>(one.size());
  return count;
}

std::int64_t TextWindows::predictions() const { return tokens() - static_cast<std::int64_t>(ids.size()); }

TextWindows read_windows(const Model& model, const PromptOptions& options, std::optional<std::int64_t> window) {
  const std::int64_t context = model.config().context;
  const std::int64_t width = window.value_or(std::min(kDefaultWindow, context));
  if (width > context) {
    throw Error(fmt::format("--window {} is more than the context of {} holds: {} tokens", width, model.dir(), context));
  }
  const Source source = read_source(model, options);
  TextWindows out{{}, source.source, width, source.special, 0};
  if (out.stride() < 1) {
    throw Error(fmt::format("--window {} holds no more than the {} tokens that the tokenizer puts before a text; raise it",
                            width, source.special));
  }
  const std::int64_t available = window_tokens(source, out.stride());
  if (options.tokens && *options.tokens > available) refuse_short(source, available);
  out.available = available;
  std::int64_t left = std::min(options.tokens.value_or(std::min(kDefaultTokens, context)), available);
  const auto prefix_end = source.ids.begin() + source.special;
  auto next = prefix_end;
  while (left > 0) {
    const std::int64_t length = std::min(left, width);
    if (!out.ids.empty() && length < source.special + 2) break;
    std::vector<std::int32_t> ids(source.ids.begin(), prefix_end);
    ids.resize(static_cast<std::size_t>(std::min(length, source.special)));
    const std::int64_t room = length - static_cast<std::int64_t>(ids.size());
    const auto end = next + std::min<std::int64_t>(room, source.ids.end() - next);
    ids.insert(ids.end(), next, end);
    next = end;
    left -= length;
    check_tokens(model, ids);
    out.ids.push_back(std::move(ids));
  }
  if (out.ids.empty()) check_tokens(model, {});
  return out;
}

Prompt read_prompt(const Model& model, const PromptOptions& options) {
  const std::int64_t context = model.config().context;
  if (options.tokens && *options.tokens > context) {
    throw Error(fmt::format("--tokens {} is more than the context of {} holds: {} tokens", *options.tokens, model.dir(), context));
  }
  Source prompt = read_source(model, options);
  if (options.tokens && *options.tokens > prompt.available) {
    refuse_short(prompt, prompt.available);
  }
  const std::int64_t wanted = options.tokens.value_or(std::min(kDefaultTokens, context));
  prompt.ids.resize(static_cast<std::size_t>(std::min(wanted, prompt.available)));
  check_tokens(model, prompt.ids);
  return prompt;
}

}  // namespace tq
