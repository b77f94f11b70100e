#include "lib/model/tokenizer/post_processor.h"

#include <limits>

#include "lib/io/safetensors_header.h"

namespace tq::text {
namespace {

std::int32_t parse_id(const Step& step, const Json& id) {
  if (!id.is_number_unsigned() ||
      id.get<std::uint64_t>() > std::numeric_limits<std::int32_t>::max()) {
    step.refuse("has a token id that is not an integer from 0 to 2^31-1");
  }
  return id.get<std::int32_t>();
}

Frame make_template(const Step& step) {
  const auto specials = step.json.find("special_tokens");
  Frame frame;
  bool text_seen = false;
  for (const Step& item : step.steps("single")) {
    if (!item.json.is_object()) item.refuse("is not an object");
    if (item.json.contains("Sequence")) {
      const Step sequence{item.json["Sequence"], item.where + ".Sequence"};
      if (text_seen || sequence.string("id") != "A")
        item.refuse("the template for one text has more than one text");
      text_seen = true;
      continue;
    }
    if (!item.json.contains("SpecialToken")) item.refuse("is neither Sequence nor SpecialToken");
    const std::string name =
        Step{item.json["SpecialToken"], item.where + ".SpecialToken"}.string("id");
    if (specials == step.json.end() || !specials->is_object() || !specials->contains(name) ||
        !(*specials)[name].is_object() || !(*specials)[name].contains("ids") ||
        !(*specials)[name]["ids"].is_array()) {
      step.refuse("special_tokens has no ids for " + quote_name(name));
    }
    for (const Json& id : (*specials)[name]["ids"]) {
      (text_seen ? frame.after : frame.before).push_back(parse_id(step, id));
    }
  }
  if (!text_seen) step.refuse("the template for one text leaves the text out");
  return frame;
}

/// The second element of the pair [token, id].
std::int32_t parse_pair(const Step& step, const char* key) {
  const auto found = step.json.find(key);
  if (found == step.json.end() || !found->is_array() || found->size() != 2)
    step.refuse(std::string("has no pair ") + key);
  return parse_id(step, (*found)[1]);
}

}  // namespace

Frame make_frame(const Step& step) {
  if (step.json.is_null()) return {};
  const std::string type = step.type();
  if (type == "ByteLevel") return {};
  if (type == "TemplateProcessing") return make_template(step);
  if (type == "BertProcessing" || type == "RobertaProcessing")
    return {{parse_pair(step, "cls")}, {parse_pair(step, "sep")}};
  if (type != "Sequence") step.refuse_type();
  Frame frame;
  for (const Step& inner : step.steps("processors")) {
    const Frame outer = make_frame(inner);
    frame.before.insert(frame.before.begin(), outer.before.begin(), outer.before.end());
    frame.after.insert(frame.after.end(), outer.after.begin(), outer.after.end());
  }
  return frame;
}

}  // namespace tq::text
