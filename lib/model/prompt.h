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

/// A text in pieces that are each read from position 0, knowing nothing of the others.
struct TextWindows {
  std::vector<std::vector<std::int32_t>> ids;  ///< each of at most `window` tokens; the last may be shorter
  std::string source;           ///< as Prompt's
  std::int64_t window = 0;      ///< tokens of a window, special tokens included
  std::int64_t special = 0;     ///< tokens that the tokenizer puts before a text (BOS), in each window
  std::int64_t available = 0;   ///< tokens of the whole text, special ones of each window counted
  std::int64_t stride() const { return window - special; }  ///< tokens of text from window to window: they do not overlap
  std::int64_t tokens() const;
  std::int64_t predictions() const;  ///< a window of W tokens has W - 1
};

inline constexpr std::int64_t kDefaultWindow = 2048;

/// The first options.tokens tokens (up to min(kDefaultTokens, context), unless told) in windows of `window` tokens; by default
/// min(2048, context). One window holds what read_prompt() gives. Each begins with the special tokens that the tokenizer
/// puts first; token ids are cut as they are. A rest too short to predict a token of the text is left out. Error: a
/// window that the context does not hold; otherwise as read_prompt(), but that the text may be longer than the context.
TextWindows read_windows(const Model& model, const PromptOptions& options, std::optional<std::int64_t> window);

}  // namespace tq
