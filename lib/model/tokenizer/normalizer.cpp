#include "lib/model/tokenizer/normalizer.h"

#include <iterator>
#include <map>

#include "lib/model/tokenizer/unicode.h"

namespace tq::text {
namespace {

NormalizeStage make_unicode_form(NormalForm form) {
  return [form](Piece& piece) { piece.text = normalize_unicode(piece.text, form); };
}

void strip_accents(Piece& piece) {
  std::string kept;
  for (std::size_t at = 0; at < piece.text.size();) {
    const CodePoint point = decode_at(piece.text, at);
    if (!is_mark(point.value)) kept.append(piece.text, at, point.bytes);
    else if (at == 0) piece.at_start = false;
    at += point.bytes;
  }
  piece.text = std::move(kept);
}

NormalizeStage make_strip(const Step& step) {
  const bool left = step.boolean("strip_left", true);
  const bool right = step.boolean("strip_right", true);
  return [left, right](Piece& piece) {
    std::string_view text = piece.text;
    while (right && !text.empty()) {
      const CodePoint last = decode_before(text, text.size());
      if (!is_whitespace(last.value)) break;
      text.remove_suffix(last.bytes);
    }
    while (left && !text.empty()) {
      const CodePoint first = decode_at(text, 0);
      if (!is_whitespace(first.value)) break;
      text.remove_prefix(first.bytes);
      piece.at_start = false;
    }
    piece.text = std::string(text);
  };
}

NormalizeStage make_replace(const Step& step) {
  return [regex = step.pattern(), content = step.string("content"), where = step.where](Piece& piece) {
    std::string text;
    for (const Span& span : regex.split(piece.text)) {
      if (span.is_match) text += content;
      else text.append(piece.text, span.begin, span.end - span.begin);
      if (text.empty()) piece.at_start = false;
      check_growth(text.size(), where);
    }
    piece.text = std::move(text);
  };
}

NormalizeStage make_prepend(const Step& step) {
  return [prefix = step.string("prepend"), where = step.where](Piece& piece) {
    check_growth(piece.text.size() + prefix.size(), where);
    if (!piece.text.empty()) piece.text.insert(0, prefix);
  };
}

}  // namespace

std::vector<NormalizeStage> make_normalizer(const Step& step) {
  static const std::map<std::string, NormalForm> kForms = {
      {"NFC", NormalForm::kNfc}, {"NFD", NormalForm::kNfd}, {"NFKC", NormalForm::kNfkc}, {"NFKD", NormalForm::kNfkd}};
  if (step.json.is_null()) return {};
  const std::string type = step.type();
  if (const auto form = kForms.find(type); form != kForms.end()) return {make_unicode_form(form->second)};
  if (type == "Lowercase") return {[](Piece& piece) { piece.text = lowercase(piece.text); }};
  if (type == "StripAccents") return {strip_accents};
  if (type == "Strip") return {make_strip(step)};
  if (type == "Replace") return {make_replace(step)};
  if (type == "Prepend") return {make_prepend(step)};
  if (type != "Sequence") step.refuse_type();
  std::vector<NormalizeStage> stages;
  for (const Step& inner : step.steps("normalizers")) {
    std::vector<NormalizeStage> more = make_normalizer(inner);
    stages.insert(stages.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  }
  return stages;
}

void normalize(const std::vector<NormalizeStage>& stages, Piece& piece) {
  for (const NormalizeStage& stage : stages) stage(piece);
}

}  // namespace tq::text
