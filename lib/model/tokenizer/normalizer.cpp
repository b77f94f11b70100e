#include "lib/model/tokenizer/normalizer.h"

#include <algorithm>
#include <iterator>
#include <map>

#include "lib/model/tokenizer/unicode.h"

namespace tq::text {
namespace {

/// Runs `change`, which turns each character, or a few, into others. The first character may come
/// out joined to those after it, so what it became ends at the first edge of a character that is as
/// far as it comes alone.
template <typename Change>
void change_text(Piece& piece, const Change& change) {
  const std::size_t alone = change(piece.text.substr(0, piece.start_bytes)).size();
  piece.text = change(piece.text);
  piece.start_bytes = 0;
  while (piece.start_bytes < std::min(alone, piece.text.size())) {
    piece.start_bytes += decode_at(piece.text, piece.start_bytes).bytes;
  }
}

NormalizeStage make_unicode_form(NormalForm form) {
  return [form](Piece& piece) {
    change_text(piece, [form](const std::string& text) { return normalize_unicode(text, form); });
  };
}

void strip_accents(Piece& piece) {
  std::string kept;
  std::size_t kept_start = 0;
  for (std::size_t at = 0; at < piece.text.size();) {
    const CodePoint point = decode_at(piece.text, at);
    if (!is_mark(point.value)) kept.append(piece.text, at, point.bytes);
    if (at < piece.start_bytes) kept_start = kept.size();
    at += point.bytes;
  }
  piece.text = std::move(kept);
  piece.start_bytes = kept_start;
}

NormalizeStage make_strip(const Step& step) {
  const bool left = step.boolean("strip_left", true);
  const bool right = step.boolean("strip_right", true);
  return [left, right](Piece& piece) {
    std::string_view text = piece.text;
    std::size_t removed = 0;
    while (right && !text.empty()) {
      const CodePoint last = decode_before(text, text.size());
      if (!is_whitespace(last.value)) break;
      text.remove_suffix(last.bytes);
    }
    while (left && !text.empty()) {
      const CodePoint first = decode_at(text, 0);
      if (!is_whitespace(first.value)) break;
      text.remove_prefix(first.bytes);
      removed += first.bytes;
    }
    piece = piece.part(removed, removed + text.size());
  };
}

NormalizeStage make_replace(const Step& step) {
  return
      [regex = step.pattern(), content = step.string("content"), where = step.where](Piece& piece) {
        std::string text;
        std::size_t start = 0;
        for (const Span& span : regex.split(piece.text)) {
          if (span.is_match) {  // what replaces several characters counts as the last of them
            const std::size_t last =
                span.end - (span.end > span.begin ? decode_before(piece.text, span.end).bytes : 0);
            text += content;
            if (last < piece.start_bytes) start = text.size();
          } else {
            text.append(piece.text, span.begin, span.end - span.begin);
            if (span.begin < piece.start_bytes)
              start = text.size() - span.end + std::min(span.end, piece.start_bytes);
          }
          check_growth(text.size(), where);
        }
        piece.text = std::move(text);
        piece.start_bytes = start;
      };
}

NormalizeStage make_prepend(const Step& step) {
  return [prefix = step.string("prepend"), where = step.where](Piece& piece) {
    check_growth(piece.text.size() + prefix.size(), where);
    if (!piece.text.empty()) piece.prepend(prefix);
  };
}

}  // namespace

std::vector<NormalizeStage> make_normalizer(const Step& step) {
  static const std::map<std::string, NormalForm> kForms = {{"NFC", NormalForm::kNfc},
                                                           {"NFD", NormalForm::kNfd},
                                                           {"NFKC", NormalForm::kNfkc},
                                                           {"NFKD", NormalForm::kNfkd}};
  if (step.json.is_null()) return {};
  const std::string type = step.type();
  if (const auto form = kForms.find(type); form != kForms.end())
    return {make_unicode_form(form->second)};
  if (type == "Lowercase") return {[](Piece& piece) { change_text(piece, lowercase); }};
  if (type == "StripAccents") return {strip_accents};
  if (type == "Strip") return {make_strip(step)};
  if (type == "Replace") return {make_replace(step)};
  if (type == "Prepend") return {make_prepend(step)};
  if (type != "Sequence") step.refuse_type();
  std::vector<NormalizeStage> stages;
  for (const Step& inner : step.steps("normalizers")) {
    std::vector<NormalizeStage> more = make_normalizer(inner);
    stages.insert(stages.end(), std::make_move_iterator(more.begin()),
                  std::make_move_iterator(more.end()));
  }
  return stages;
}

void normalize(const std::vector<NormalizeStage>& stages, Piece& piece) {
  for (const NormalizeStage& stage : stages) stage(piece);
}

}  // namespace tq::text
