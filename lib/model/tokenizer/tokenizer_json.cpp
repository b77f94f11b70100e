#include "lib/model/tokenizer/tokenizer_json.h"

#include <fmt/format.h>

#include <limits>

#include "lib/error.h"
#include "lib/io/safetensors_header.h"

namespace tq::text {
namespace {

constexpr std::size_t kMostDepth = 64;

class Handler : public nlohmann::json_sax<Json> {
 public:
  explicit Handler(const std::string& where) : where_(where) {}

  TokenizerJson take() {
    if (!parsed_.rest.is_object()) refuse("is not a JSON object");
    return std::move(parsed_);
  }

  bool null() override { return add_value(nullptr); }
  bool boolean(bool value) override { return add_value(value); }
  bool number_integer(std::int64_t value) override { return add_value(value); }
  bool number_float(double value, const std::string&) override { return add_value(value); }
  bool binary(Json::binary_t&) override { return add_value(nullptr); }

  bool number_unsigned(std::uint64_t value) override {
    if (mode_ != Mode::kVocabulary) return add_value(value);
    if (value > std::numeric_limits<std::int32_t>::max()) refuse_id();
    if (!parsed_.vocabulary.add(key_, static_cast<std::int32_t>(value))) {
      refuse(fmt::format("model.vocab has {} twice", quote_name(key_)));
    }
    return true;
  }

  bool string(std::string& value) override {
    if (mode_ == Mode::kMerges) {
      add_merge(value);
    } else if (mode_ == Mode::kPair) {
      pair_.push_back(std::move(value));
      if (pair_.size() > 2) refuse_merge();
    } else {
      add_value(std::move(value));
    }
    return true;
  }

  bool start_object(std::size_t) override {
    if (mode_ == Mode::kTree && at_member("vocab")) {
      mode_ = Mode::kVocabulary;
      parsed_.has_vocabulary = true;
      model_members_.push_back(key_);
      return true;
    }
    return open(Json::object());
  }

  bool start_array(std::size_t) override {
    if (mode_ == Mode::kMerges) {
      mode_ = Mode::kPair;
      return true;
    }
    if (mode_ == Mode::kTree && at_member("merges")) {
      mode_ = Mode::kMerges;
      parsed_.has_merges = true;
      model_members_.push_back(key_);
      return true;
    }
    return open(Json::array());
  }

  bool end_object() override {
    if (mode_ == Mode::kVocabulary)
      mode_ = Mode::kTree;
    else
      close();
    return true;
  }

  bool end_array() override {
    if (mode_ == Mode::kPair) {
      if (pair_.size() != 2) refuse_merge();
      parsed_.merges.emplace_back(std::move(pair_[0]), std::move(pair_[1]));
      pair_.clear();
      mode_ = Mode::kMerges;
    } else if (mode_ == Mode::kMerges) {
      mode_ = Mode::kTree;
    } else {
      close();
    }
    return true;
  }

  bool key(std::string& name) override {
    key_ = std::move(name);
    if (mode_ != Mode::kTree) return true;
    bool twice = open_.back()->contains(key_);
    if (in_model())
      twice = twice ||
              std::find(model_members_.begin(), model_members_.end(), key_) != model_members_.end();
    if (twice) refuse(fmt::format("the key {} occurs twice in an object", quote_name(key_)));
    return true;
  }

  bool parse_error(std::size_t place, const std::string&,
                   const nlohmann::detail::exception&) override {
    refuse(fmt::format("is not valid JSON at byte offset {}; was it copied whole?",
                       place == 0 ? 0 : place - 1));
  }

 private:
  enum class Mode { kTree, kSkip, kVocabulary, kMerges, kPair };

  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(fmt::format("{}: {}", where_, what));
  }
  [[noreturn]] void refuse_id() const {
    refuse(fmt::format("model.vocab: the id of {} is not an integer from 0 to 2^31-1",
                       quote_name(key_)));
  }
  [[noreturn]] void refuse_merge() const {
    refuse(fmt::format("model.merges[{}] is neither \"LEFT RIGHT\" nor [LEFT, RIGHT]",
                       parsed_.merges.size()));
  }

  bool in_model() const {
    return open_.size() == 2 && open_.front()->is_object() && model_ == open_.back();
  }
  bool at_member(const char* name) const { return in_model() && key_ == name; }

  void add_merge(const std::string& text) {
    const std::size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
      refuse_merge();
    parsed_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }

  bool add_value(Json value) {
    if (mode_ == Mode::kVocabulary) refuse_id();
    if (mode_ == Mode::kMerges || mode_ == Mode::kPair) refuse_merge();
    if (mode_ == Mode::kTree) place(std::move(value));
    return true;
  }

  Json* place(Json value) {
    if (open_.empty()) {
      parsed_.rest = std::move(value);
      return &parsed_.rest;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    Json& member = (*open_.back())[key_];
    member = std::move(value);
    return &member;
  }

  bool open(Json container) {
    if (mode_ == Mode::kVocabulary) refuse_id();
    if (mode_ == Mode::kMerges || mode_ == Mode::kPair) refuse_merge();
    if (mode_ == Mode::kSkip || at_member("vocab") || at_member("merges")) {
      if (mode_ == Mode::kTree) model_members_.push_back(key_);
      mode_ = Mode::kSkip;
      ++skipped_;
      return true;
    }
    if (open_.size() >= kMostDepth) refuse(fmt::format("nests more than {} deep", kMostDepth));
    const bool is_model = open_.size() == 1 && open_.front()->is_object() && key_ == "model";
    open_.push_back(place(std::move(container)));
    if (is_model) model_ = open_.back();
    return true;
  }

  void close() {
    if (mode_ != Mode::kSkip)
      open_.pop_back();
    else if (--skipped_ == 0)
      mode_ = Mode::kTree;
  }

  const std::string& where_;
  TokenizerJson parsed_;
  Mode mode_ = Mode::kTree;
  std::size_t skipped_ = 0;  ///< open containers of a member that is passed over
  std::vector<Json*> open_;  ///< the containers around the current value
  const Json* model_ = nullptr;
  std::vector<std::string> model_members_;  ///< those that are not in the tree
  std::string key_;
  std::vector<std::string> pair_;
};

}  // namespace

TokenizerJson parse_tokenizer_json(std::string_view text, const std::string& where) {
  Handler handler(where);
  Json::sax_parse(text.begin(), text.end(), &handler);
  return handler.take();
}

}  // namespace tq::text
