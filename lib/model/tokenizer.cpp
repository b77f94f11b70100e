#include "lib/model/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "lib/error.h"
#include "lib/io/file.h"
#include "lib/io/safetensors_header.h"
#include "lib/model/tokenizer/added_tokens.h"
#include "lib/model/tokenizer/bpe.h"
#include "lib/model/tokenizer/normalizer.h"
#include "lib/model/tokenizer/post_processor.h"
#include "lib/model/tokenizer/pre_tokenizer.h"
#include "lib/model/tokenizer/tokenizer_json.h"
#include "lib/model/tokenizer/unicode.h"

namespace tq {

using text::Frame;
using text::Json;
using text::Piece;
using text::Pieces;
using text::Step;

namespace {

constexpr std::uint64_t kMostFileBytes = std::uint64_t{1} << 28;

std::string read_json_file(const std::string& path) {
  const InputFile file = InputFile::open(path);
  if (file.size() > kMostFileBytes) {
    throw Error(fmt::format("{}: has {} bytes; a tokenizer has at most {}", path, file.size(),
                            kMostFileBytes));
  }
  std::string text(file.size(), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

bool exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

void require_tokenizer_file(const std::string& dir) {
  if (exists(dir + "/tokenizer.json")) return;
  for (const char* name : {"tokenizer.model", "vocab.json", "tekken.json"}) {
    if (!exists(dir + "/" + name)) continue;
    throw Error(
        fmt::format("{}: has {} but no tokenizer.json, which tq reads; convert it: python3 -c "
                    "\"from transformers import "
                    "AutoTokenizer; AutoTokenizer.from_pretrained('{}').save_pretrained('{}')\"",
                    dir, name, dir, dir));
  }
  throw Error(
      fmt::format("{}: has no tokenizer.json; copy it from where the model came from", dir));
}

/// A member of tokenizer.json, null where it is missing.
Step member(const Json& json, const char* name, const std::string& where) {
  static const Json kNull;
  const auto found = json.find(name);
  return {found == json.end() ? kNull : *found, fmt::format("{}: {}", where, name)};
}

text::BpeOptions parse_bpe_options(const Step& model) {
  const auto optional_string = [&](const char* key) -> std::optional<std::string> {
    const auto found = model.json.find(key);
    if (found == model.json.end() || found->is_null()) return std::nullopt;
    return model.string(key);
  };
  const auto dropout = model.json.find("dropout");
  if (dropout != model.json.end() && !dropout->is_null() && *dropout != 0.0) {
    model.refuse("has dropout, which makes ids random; set it to null");
  }
  text::BpeOptions options;
  options.unk_token = optional_string("unk_token");
  options.fuse_unk = model.boolean("fuse_unk", false);
  options.byte_fallback = model.boolean("byte_fallback", false);
  options.ignore_merges = model.boolean("ignore_merges", false);
  options.continuing_subword_prefix = optional_string("continuing_subword_prefix").value_or("");
  options.end_of_word_suffix = optional_string("end_of_word_suffix").value_or("");
  return options;
}

text::Bpe make_bpe(text::TokenizerJson& file, const std::string& where) {
  const Step model = member(file.rest, "model", where);
  if (!model.json.is_object()) model.refuse("is not an object");
  if (model.json.contains("type") && model.type() != "BPE") model.refuse_type();
  if (!file.has_vocabulary || !file.has_merges) {
    model.refuse("has no object vocab and array merges; tq reads BPE tokenizers only");
  }
  return text::Bpe(std::move(file.vocabulary), file.merges, parse_bpe_options(model), model.where);
}

/// What tokenizer_config.json says. All of it is optional.
struct Config {
  std::optional<std::string> bos, eos;
  bool add_bos = false;
  bool add_eos = false;
};

Config parse_config(std::string_view json_text, const std::string& where) {
  Config config;
  if (json_text.empty()) return config;
  const Json json = Json::parse(json_text.begin(), json_text.end(), nullptr, false);
  if (!json.is_object())
    throw Error(fmt::format("{}: is not a JSON object; was it copied whole?", where));
  const Step step{json, where};
  const auto token = [&](const char* key) -> std::optional<std::string> {
    const auto found = json.find(key);
    if (found == json.end()) return std::nullopt;
    if (found->is_object()) return Step{*found, where + ": " + key}.string("content");
    return found->is_string() ? std::optional(found->get<std::string>()) : std::nullopt;
  };
  config.bos = token("bos_token");
  config.eos = token("eos_token");
  const std::string name = json.contains("tokenizer_class") && json["tokenizer_class"].is_string()
                               ? step.string("tokenizer_class")
                               : "";
  const bool obeyed = name.starts_with("LlamaTokenizer") ||
                      name.starts_with("CodeLlamaTokenizer") || name.starts_with("GemmaTokenizer");
  config.add_bos = obeyed && step.boolean("add_bos_token", false);
  config.add_eos = obeyed && step.boolean("add_eos_token", false);
  return config;
}

}  // namespace

struct Tokenizer::Parts {
  std::string where;
  text::Bpe bpe;
  std::vector<text::NormalizeStage> normalizer;
  std::vector<text::SplitStage> pre_tokenizer;
  text::AddedTokens added;
  Frame frame;
  std::optional<std::int32_t> bos, eos;

  std::optional<std::int32_t> find(std::string_view piece) const {
    if (const text::AddedToken* token = added.find(piece)) return token->id;
    return bpe.vocabulary().find(piece);
  }
};

Tokenizer::Tokenizer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::open(const std::string& dir) {
  require_tokenizer_file(dir);
  const std::string path = dir + "/tokenizer.json";
  const std::string config = dir + "/tokenizer_config.json";
  return parse(read_json_file(path), exists(config) ? read_json_file(config) : "", path);
}

Tokenizer Tokenizer::parse(std::string_view tokenizer_json, std::string_view config_json,
                           const std::string& where) {
  text::TokenizerJson file = text::parse_tokenizer_json(tokenizer_json, where);
  const Config config = parse_config(config_json, where + " (its tokenizer_config.json)");
  Parts parts{where, make_bpe(file, where), {}, {}, {}, {}, {}, {}};
  parts.normalizer = text::make_normalizer(member(file.rest, "normalizer", where));
  parts.pre_tokenizer = text::make_pre_tokenizer(member(file.rest, "pre_tokenizer", where));
  parts.added = text::AddedTokens::parse(member(file.rest, "added_tokens", where),
                                         parts.bpe.vocabulary(), parts.normalizer);
  parts.frame = text::make_frame(member(file.rest, "post_processor", where));
  if (config.bos) parts.bos = parts.find(*config.bos);
  if (config.eos) parts.eos = parts.find(*config.eos);
  if (parts.frame.before.empty() && parts.frame.after.empty()) {
    if (config.add_bos && parts.bos) parts.frame.before.push_back(*parts.bos);
    if (config.add_eos && parts.eos) parts.frame.after.push_back(*parts.eos);
  }
  return Tokenizer(std::make_unique<const Parts>(std::move(parts)));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  text::require_utf8(text, "the text");
  text::check_growth(text.size(), "the text");
  Pieces pieces;
  if (!text.empty()) pieces.push_back({std::string(text), text::decode_at(text, 0).bytes, -1});
  parts_->added.extract(pieces, false);
  for (Piece& piece : pieces) {
    if (piece.id < 0) text::normalize(parts_->normalizer, piece);
  }
  parts_->added.extract(pieces, true);
  for (const text::SplitStage& split : parts_->pre_tokenizer) split(pieces);
  std::vector<std::int32_t> ids;
  if (add_special) ids = parts_->frame.before;
  for (const Piece& piece : pieces) {
    if (piece.id >= 0)
      ids.push_back(piece.id);
    else
      parts_->bpe.append_ids(piece.text, ids);
  }
  if (add_special) ids.insert(ids.end(), parts_->frame.after.begin(), parts_->frame.after.end());
  return ids;
}

std::optional<std::string> Tokenizer::piece(std::int32_t id) const {
  if (const text::AddedToken* token = parts_->added.find(id)) return token->content;
  const std::string* piece = parts_->bpe.vocabulary().piece(id);
  return piece != nullptr ? std::optional(*piece) : std::nullopt;
}

std::optional<std::int32_t> Tokenizer::find(std::string_view piece) const {
  return parts_->find(piece);
}
std::optional<std::int32_t> Tokenizer::bos_id() const { return parts_->bos; }
std::optional<std::int32_t> Tokenizer::eos_id() const { return parts_->eos; }

std::int32_t Tokenizer::vocabulary_size() const {
  return std::max(parts_->bpe.vocabulary().largest_id(), parts_->added.largest_id()) + 1;
}

}  // namespace tq
