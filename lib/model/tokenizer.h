// Text to token ids, as the tokenizer of a model makes them. Reads Hugging Face's tokenizer.json
// natively: byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM, Phi-4, gpt-oss, DeepSeek, GLM-4) and
// SentencePiece-style BPE with byte fallback (Llama 2, Mistral, Gemma, Phi-3). For a file that is
// accepted, the ids are those of the `tokenizers` library; docs/tokenizer.md says what is accepted
// and what is refused.
//
// In order: added tokens are taken out of the text; the rest is normalized; normalized added tokens
// are taken out; the pre-tokenizer splits what is left into words; BPE turns each word into ids;
// the post-processor adds the special tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tq {

/// Move-only. All functions are thread-safe.
class Tokenizer {
 public:
  /// Reads DIR/tokenizer.json and, where it is there, DIR/tokenizer_config.json. Error, in one line
  /// that names file and place, for: no such file (a tokenizer.model alone is refused with the way
  /// to convert it); JSON that is not valid or has more than 256 MiB; a part that is not supported,
  /// by its name; merges that do not fit the vocabulary.
  static Tokenizer open(const std::string& dir);

  /// The same from texts in memory; `config_json` may be empty. `where` begins each message.
  static Tokenizer parse(std::string_view tokenizer_json, std::string_view config_json,
                         const std::string& where);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// The ids of `text`, which must be UTF-8 of at most 256 MiB (else Error, with the byte offset).
  /// With `add_special` the special tokens of the post-processor stand around them (a BOS, for most
  /// models that have one); if it adds none, those that tokenizer_config.json asks for by
  /// "add_bos_token": true or "add_eos_token": true, for the classes LlamaTokenizer,
  /// CodeLlamaTokenizer and GemmaTokenizer. Special tokens that are written out in the text are
  /// found either way. The empty text has special tokens only.
  std::vector<std::int32_t> encode(std::string_view text, bool add_special = true) const;

  /// How the vocabulary writes a token ("Ġthe", "▁the", "<0x0A>", "<|endoftext|>"), for display;
  /// UTF-8. Nothing for an id that has no token.
  std::optional<std::string> piece(std::int32_t id) const;

  /// The id of a piece, added tokens first.
  std::optional<std::int32_t> find(std::string_view piece) const;

  /// The bos_token and eos_token of tokenizer_config.json; nothing where it names none or one that
  /// has no id.
  std::optional<std::int32_t> bos_id() const;
  std::optional<std::int32_t> eos_id() const;

  /// The largest id plus 1: how many rows an embedding needs at least. Models often have more.
  std::int32_t vocabulary_size() const;

 private:
  struct Parts;
  explicit Tokenizer(std::unique_ptr<const Parts> parts);
  std::unique_ptr<const Parts> parts_;
};

}  // namespace tq
