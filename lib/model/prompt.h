// The tokens that a model is run on.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/model/prefill.h"

namespace tq {

/// At most one of the three sources; none means the passage of passage.h.
struct PromptOptions {
  std::optional<std::string> text;
  std::string file;       ///< UTF-8 text, "-" for stdin
  std::string token_ids;  ///< integers separated by white space, or a JSON array; "-" for stdin
  std::optional<std::int64_t> tokens;  ///< exactly that many; nothing: up to kDefaultTokens
};

inline constexpr std::int64_t kDefaultTokens = 128;
inline constexpr const char* kDefaultPassage = "the default passage";

struct Prompt {
  std::vector<std::int32_t> ids;
  std::string source;          ///< for reports, such as "the default passage"
  std::int64_t available = 0;  ///< tokens that the source has
  std::string file;            ///< that was read, of stdin its name; empty where none was
};

/// "12 tokens of ids.txt", "1 token of --prompt"; "the first 128 of 400 tokens of ids.txt" where the source
/// has more than were used. Of the default passage nobody needs to know how long it is.
std::string describe_tokens(std::int64_t tokens, std::int64_t available, const std::string& source);

/// Reads and, where it is text, encodes with DIR/tokenizer.json, special tokens as the tokenizer adds
/// them; then keeps the first `tokens`. Error: more tokens asked for than there are, or than the
/// model's context holds; those of Tokenizer::open(), read_text(), read_token_ids() and check_tokens().
Prompt read_prompt(const Model& model, const PromptOptions& options);

}  // namespace tq
