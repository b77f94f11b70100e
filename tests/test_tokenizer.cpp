// The tokenizer by hand: merges, added tokens, frames of special tokens, regular expressions, and
// each refusal. That ids are those of the published implementation is for
// tests/test_tokenizer_ids.py to show.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <xxhash.h>

#include <nlohmann/json.hpp>

#include "lib/model/passage.h"
#include "lib/model/text_input.h"
#include "lib/model/tokenizer.h"
#include "lib/model/tokenizer/pattern.h"
#include "lib/model/tokenizer/regex.h"
#include "lib/model/tokenizer/unicode.h"
#include "tests/io_helpers.h"

using namespace tq;
using namespace tq::test;
using Json = nlohmann::json;
using Ids = std::vector<std::int32_t>;

namespace {

/// a..d, what four merges make of them, a space, and two tokens that only config or post-processor
/// use.
Json small() {
  return Json::parse(
      R"({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
    "model": {"type": "BPE", "dropout": null, "unk_token": null,
      "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "bc": 4, "ab": 5, "cd": 6, "abcd": 7, " ": 8, "<s>": 9, "</s>": 10, "?": 11},
      "merges": [["b", "c"], ["a", "b"], "c d", ["ab", "cd"]]}})");
}

Tokenizer parse(const Json& json, const std::string& config = "") {
  return Tokenizer::parse(json.dump(), config, "t");
}

Json with(const char* pointer, Json value) {
  Json json = small();
  json[Json::json_pointer(pointer)] = std::move(value);
  return json;
}

Json token(const std::string& content) {
  return {{"id", 0}, {"content", content}, {"special", true}, {"normalized", false}};
}

std::string refusal(const Json& json, const std::string& text = "abcd") {
  return error_of([&] { parse(json).encode(text); });
}

std::vector<std::string> matches(const std::string& pattern, const std::string& text) {
  std::vector<std::string> found;
  for (const text::Span& span : text::Regex::compile(pattern, "p").split(text)) {
    if (span.is_match) found.push_back(text.substr(span.begin, span.end - span.begin));
  }
  return found;
}

using Words = std::vector<std::string>;

}  // namespace

TEST_CASE("merges go by rank first, then from the left") {
  const Tokenizer tokenizer = parse(small());
  CHECK(tokenizer.encode("abcd") == Ids{0, 4, 3});  // b c comes before a b, and then nothing fits
  CHECK(tokenizer.encode("abd") == Ids{5, 3});
  CHECK(tokenizer.encode("abab") == Ids{5, 5});
  CHECK(tokenizer.encode("bcbc") == Ids{4, 4});
  CHECK(tokenizer.encode("") == Ids{});
  CHECK(tokenizer.encode("axb") ==
        Ids{5});  // no unk_token: x is nothing, as in the published implementation
  CHECK(tokenizer.piece(7) == "abcd");
  CHECK_FALSE(tokenizer.piece(12));
  CHECK_FALSE(tokenizer.piece(-1));
  CHECK(tokenizer.find("cd") == 6);
  CHECK(tokenizer.vocabulary_size() == 12);
  CHECK(parse(with("/model/ignore_merges", true)).encode("abcd") == Ids{7});
}

TEST_CASE("a very long word is no trouble") {
  Json json = small();
  std::string run = "a";
  json["model"]["merges"] = Json::array();
  for (int id = 20; id < 25; ++id) {
    json["model"]["merges"].push_back({run, run});
    run += run;
    json["model"]["vocab"][run] = id;
  }
  const Ids ids = parse(json).encode(std::string(100'003, 'a'));
  REQUIRE(ids.size() == 3125 + 2);  // 32 at a time, then 2 and 1
  CHECK(ids[0] == 24);
  CHECK(ids[3124] == 24);
  CHECK(ids[3125] == 20);
  CHECK(ids[3126] == 0);
}

TEST_CASE("unknown characters: unk_token, fused or not, and bytes") {
  Json json = with("/model/unk_token", "?");
  CHECK(parse(json).encode("xyab\xc3\xa9") == Ids{11, 11, 5, 11});
  json["model"]["fuse_unk"] = true;
  CHECK(parse(json).encode("xyab\xc3\xa9") == Ids{11, 5, 11});
  json["model"]["byte_fallback"] = true;
  json["model"]["vocab"]["<0xC3>"] = 30;
  json["model"]["vocab"]["<0xA9>"] = 31;
  CHECK(parse(json).encode("xab\xc3\xa9") == Ids{11, 5, 30, 31});
  CHECK(parse(json).encode("ab\xc3\xaa") == Ids{5, 11});  // only one of the two bytes is known
  CHECK(refusal(with("/model/unk_token", "gone"), "x").find("\"gone\"") != std::string::npos);
  CHECK(refusal(with("/model/unk_token", "gone"), "ab") == "no error");
}

TEST_CASE("affixes of characters inside and at the end of a word") {
  Json json = small();
  json["model"]["continuing_subword_prefix"] = "##";
  json["model"]["end_of_word_suffix"] = "$";
  json["model"]["vocab"] = {{"a", 0}, {"##b", 1}, {"##c$", 2}, {"ab", 3}, {"##bc$", 4}, {"a$", 5}};
  json["model"]["merges"] = {"a ##b", "##b ##c$"};
  CHECK(parse(json).encode("abc") == Ids{3, 2});
  CHECK(parse(json).encode("a") == Ids{5});
}

TEST_CASE("added tokens have the id of their piece, else the next free one") {
  Json json = with("/added_tokens", {token("new"), token("ab"), token("newer"), token("")});
  const Tokenizer tokenizer = parse(json);
  CHECK(tokenizer.encode("cnewerd") == Ids{2, 13, 3});  // the longest
  CHECK(tokenizer.encode("newnewcab") == Ids{12, 12, 2, 5});
  CHECK(tokenizer.piece(13) == "newer");
  CHECK(tokenizer.vocabulary_size() == 14);
}

TEST_CASE("added tokens: single_word, lstrip, rstrip, normalized") {
  const auto encode = [](const char* flag, const std::string& text) {
    Json json = with("/added_tokens", {token("T")});
    json["added_tokens"][0][flag] = true;
    json["normalizer"] = {{"type", "Lowercase"}};
    json["model"]["vocab"]["t"] = 40;
    return parse(json).encode(text);
  };
  CHECK(encode("single_word", "aT T") == Ids{0, 40, 8, 13});
  CHECK(encode("single_word", "_T T\xcc\x81 T") == Ids{40, 8, 40, 8, 13});
  CHECK(encode("lstrip", "a \n T b") == Ids{0, 13, 8, 1});
  CHECK(encode("rstrip", "a T \xe3\x80\x80 b") == Ids{0, 8, 13, 1});
  CHECK(encode("rstrip", "TT  T b") == Ids{13, 13, 13, 1});
  CHECK(encode("special", "t T") == Ids{40, 8, 13});
  CHECK(encode("normalized", "t T") == Ids{13, 8, 13});
}

TEST_CASE("added tokens that are equal once normalized: the special one, then the first") {
  Json json = with("/normalizer", {{"type", "Lowercase"}});
  json["added_tokens"] = {token("XY"), token("Xy"), token("xy")};
  for (Json& added : json["added_tokens"]) added["normalized"] = true;
  json["added_tokens"][0]["special"] = json["added_tokens"][1]["special"] = false;
  CHECK(parse(json).encode("XY") == Ids{14});
  json["added_tokens"][2]["special"] = false;
  CHECK(parse(json).encode("xY") == Ids{12});
  json["normalizer"] = {{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}};
  json["added_tokens"][1]["content"] = " ";
  CHECK(refusal(json).find("\" \" is nothing once it is normalized") != std::string::npos);
}

TEST_CASE(
    "special tokens around a text come from the post-processor, or else from the configuration") {
  const std::string config =
      R"({"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": true, "bos_token": "<s>",
                                 "eos_token": {"content": "</s>", "lstrip": false}})";
  const Tokenizer tokenizer = parse(small(), config);
  CHECK(tokenizer.bos_id() == 9);
  CHECK(tokenizer.eos_id() == 10);
  CHECK(tokenizer.encode("a") == Ids{9, 0});
  CHECK(tokenizer.encode("") == Ids{9});
  CHECK(tokenizer.encode("a", false) == Ids{0});
  CHECK(parse(small(),
              R"({"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": true, "bos_token": "<s>"})")
            .encode("a") == Ids{0});
  CHECK(
      parse(small(), R"({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>"})").encode("a") ==
      Ids{0});
  CHECK(
      parse(small(),
            R"({"tokenizer_class": "GemmaTokenizer", "add_eos_token": true, "eos_token": "</s>"})")
          .encode("a") == Ids{0, 10});
  CHECK_FALSE(parse(small(), R"({"bos_token": null, "eos_token": "nowhere"})").eos_id());

  const Json frame = {
      {"type", "TemplateProcessing"},
      {"single", {{{"Sequence", {{"id", "A"}}}}, {{"SpecialToken", {{"id", "E"}}}}}},
      {"special_tokens", {{"E", {{"id", "E"}, {"ids", {10, 3}}}}}}};
  CHECK(parse(with("/post_processor", frame), config).encode("a") ==
        Ids{0, 10, 3});  // the file has the last word
  const Json bert = {{"type", "BertProcessing"}, {"sep", {"</s>", 10}}, {"cls", {"<s>", 9}}};
  CHECK(parse(with("/post_processor", bert)).encode("a") == Ids{9, 0, 10});
  const Json both = {{"type", "Sequence"}, {"processors", {{{"type", "ByteLevel"}}, frame, bert}}};
  CHECK(parse(with("/post_processor", both)).encode("a") == Ids{9, 0, 10, 3, 10});
}

TEST_CASE("regular expressions mean what they mean to Oniguruma") {
  CHECK(matches(R"(\s)", "a\u0085b\u180ec\u200bd\u00a0e\u3000") ==
        Words{"\u0085", "\u00a0", "\u3000"});
  CHECK(matches(R"([^\S\n]+)", "a \n\u180e\tb") == Words{" ", "\t"});
  CHECK(matches(R"(\w+)", "a_\u0301\u200d\u0663\u00bd\u2167\u2461-\u24d0") ==
        Words{"a_\u0301", "\u0663\u00bd\u2167", "\u24d0"});
  CHECK(matches(R"([\w]+|\W)", "1\u00b2\u00b3\u00b9\u00bc\u00be\u00bbx\u00bd") == Words{"1", "\u00bb", "x"});  // in a set, not
  CHECK(matches(R"(\h)", "a g") == Words{"a"});
  CHECK(matches(R"(\p{N}{1,3}+)", "1234567") == Words{"1234567"});
  CHECK(matches(R"(\p{N}{1,3}?)", "123") == Words{"1", "2", "3"});
  CHECK(matches(R"((?:\p{N}|x){2}+)", "12x45") == Words{"12x4"});
  CHECK(matches(R"(\p{N}{2}?)", "123") == Words{"12", ""});  // an optional pair, which matches nothing at the end
  CHECK(matches(R"(\p{N}{,2}x)", "123x") == Words{"23x"});
  CHECK(matches(R"(a{b})", "a{b}") == Words{"a{b}"});
  CHECK(matches(R"(\s+$)", "a  \nb  \n") == Words{"  ", "  \n"});
  CHECK(matches(R"(.+)", "a\nb\rc\u2028d") == Words{"a", "b\rc\u2028d"});
  CHECK(matches(R"((?i:'s))", "'S '\u017f") == Words{"'S", "'\u017f"});
  CHECK(matches(R"((?i)a|b)", "AB") == Words{"A", "B"});
  CHECK(matches(R"(\p{Han}+)", "a\u3001\u6f22\u3005") == Words{"\u6f22\u3005"});
  CHECK(matches(R"([\p{L}-]+)", "a-b\u00e9") == Words{"a-b\u00e9"});
  CHECK(matches(R"([]a]+)", "a]") == Words{"a]"});
  CHECK(matches(R"(\u00e9|\x{e9}|\x41)",
                "\u00e9"
                "A") == Words{"\u00e9", "A"});
  CHECK(matches(R"(\bab\b)", "ab abc \u0301ab ab\u200d \u00b2ab") == Words{"ab", "ab"});
  CHECK(matches("", "ab") == Words{"", "", ""});
  CHECK(matches(text::escape_pattern("a.b*[\u00e9"), "axb a.b*[\u00e9") == Words{"a.b*[\u00e9"});
}

TEST_CASE("regular expressions that tq does not know are refused by name") {
  const auto refused = [](const std::string& pattern) {
    return error_of([&] { text::Regex::compile(pattern, "place"); });
  };
  for (const char* pattern : {R"(\R)",
                              R"(\X)",
                              R"(\K)",
                              R"(\1)",
                              R"(\k<a>)",
                              R"(\Qa\E)",
                              "[a[b]]",
                              "[a&&b]",
                              "[[:alpha:]]",
                              R"([\W])",
                              "(?m:.)",
                              "(?x)a",
                              "(?<n>a)",
                              "(?P<n>a)",
                              "(*FAIL)",
                              "a(?i)b",
                              "(a",
                              "a)",
                              "[a",
                              "\\",
                              R"(\xff)",
                              R"(\u12)",
                              R"(\p{No Such})",
                              R"(\p{Klingon})",
                              R"(\pL)",
                              "a**",
                              "*",
                              "(?#c)",
                              R"(\p{L)",
                              "[b-a]",
                              "a{99999}",
                              "(?R)",
                              R"(\C)",
                              R"(\N{U+41})"}) {
    const std::string message = refused(pattern);
    CAPTURE(pattern);
    CHECK(message.starts_with("place: the regular expression "));
  }
}

TEST_CASE("what does not fit is refused with its place") {
  const auto says = [](const std::string& message, std::initializer_list<const char*> words) {
    CAPTURE(message);
    CHECK(message.starts_with("t: "));
    for (const char* word : words) CHECK(message.find(word) != std::string::npos);
  };
  says(refusal(with("/model/type", "Unigram")), {"model: type \"Unigram\" is not supported"});
  says(refusal(with("/model/type", "WordPiece")), {"\"WordPiece\""});
  says(refusal(with("/model/vocab", Json::array({Json::array({"a", -1.5})}))),
       {"model: has no object vocab"});
  says(refusal(with("/model/merges", Json::array({"a"}))), {"model.merges[0] is neither"});
  says(refusal(with("/model/merges", Json::array({"a b c"}))), {"model.merges[0] is neither"});
  says(refusal(with("/model/merges", {{"b", "c"}, {"a", "b", "c"}})),
       {"model.merges[1] is neither"});
  says(refusal(with("/model/merges", {"b c", "a x"})),
       {"model.merges[1]: \"x\" is not in the vocabulary"});
  says(refusal(with("/model/merges", Json::array({"d d"}))),
       {"model.merges[0]: \"dd\" is not in the vocabulary"});
  says(refusal(with("/model/vocab/a", -1)), {"the id of \"a\""});
  says(refusal(with("/model/vocab/a", 2147483648u)), {"the id of \"a\""});
  says(refusal(with("/model/vocab/a", {1})), {"the id of \"a\""});
  says(refusal(with("/model/dropout", 0.1)), {"dropout"});
  says(refusal(with("/model/byte_fallback", "yes")), {"byte_fallback is neither"});
  says(refusal(with("/model", 1)), {"model: is not an object"});
  says(refusal(with("/normalizer", {{"type", "Precompiled"}})),
       {"normalizer: type \"Precompiled\" is not supported"});
  says(refusal(with("/normalizer", {{"type", "Sequence"},
                                    {"normalizers", {{{"type", "NFC"}}, {{"type", "Nmt"}}}}})),
       {"normalizer.normalizers[1]: type \"Nmt\""});
  says(refusal(with("/normalizer", {{"type", "Prepend"}})), {"normalizer: has no string prepend"});
  says(refusal(with("/pre_tokenizer", {{"type", "UnicodeScripts"}})),
       {"pre_tokenizer: type \"UnicodeScripts\""});
  says(refusal(with("/pre_tokenizer",
                    {{"type", "Split"}, {"pattern", {{"Regex", "("}}}, {"behavior", "Isolated"}})),
       {"pre_tokenizer.pattern: the regular"});
  says(refusal(with("/pre_tokenizer",
                    {{"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "Halved"}})),
       {"\"Halved\""});
  says(refusal(with("/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "xy"}})),
       {"replacement is not one character"});
  says(refusal(with("/pre_tokenizer", "ByteLevel")), {"pre_tokenizer: is not an object"});
  says(
      refusal(with("/post_processor", {{"type", "TemplateProcessing"}, {"single", Json::array()}})),
      {"leaves the text out"});
  says(refusal(with("/post_processor",
                    {{"type", "BertProcessing"}, {"sep", {"x", -1}}, {"cls", {"x", 1}}})),
       {"post_processor: has a token id"});
  says(refusal(with("/added_tokens", {{{"id", 1}}})), {"added_tokens[0]: has no string content"});
  says(refusal(with("/added_tokens", {token("x"), 5})), {"added_tokens[1]: is not an object"});
  CHECK(error_of([] { Tokenizer::parse("[]", "", "t"); }) == "t: is not a JSON object");
  CHECK(error_of([] {
          Tokenizer::parse(R"({"model": {"vocab": {"a": 1, "a": 2}}})", "", "t");
        }).find("\"a\" twice") != std::string::npos);
  CHECK(error_of([] {
          Tokenizer::parse(R"({"model": {"vocab": {}, "vocab": {}}})", "", "t");
        }).find("\"vocab\" occurs twice") != std::string::npos);
  CHECK(error_of([] {
          Tokenizer::parse(R"({"a": 1, "a": 2})", "", "t");
        }).find("\"a\" occurs twice") != std::string::npos);
  CHECK(error_of([] {
          Tokenizer::parse("{\"a\": " + std::string(1000, '['), "", "t");
        }).find("deep") != std::string::npos);
  CHECK(error_of([] { parse(small(), "[1]"); }).find("tokenizer_config.json") != std::string::npos);
}

TEST_CASE("a text that ends anywhere, or grows without end, is one error") {
  const std::string whole = with("/added_tokens", {token("new")}).dump();
  for (std::size_t length = 0; length < whole.size(); ++length) {
    CHECK(error_of([&] {
            Tokenizer::parse(whole.substr(0, length), "", "t");
          }).starts_with("t: is not valid JSON at byte offset"));
  }
  Json steps = Json::array();
  for (int i = 0; i < 60; ++i)
    steps.push_back(
        {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(1000, 'a')}});
  CHECK(refusal(with("/normalizer", {{"type", "Sequence"}, {"normalizers", steps}}))
            .find("longer than") != std::string::npos);
}

TEST_CASE("only UTF-8 is text") {
  const auto offset = [](const std::string& text) {
    return text::find_invalid_utf8(text).value_or(99);
  };
  CHECK(offset("a\u00e9\u20ac\U0001f600\U0010ffff\ud7ff\ue000") == 99);
  for (const char* bad :
       {"\x80", "\xc3", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xed\xbf\xbf",
        "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xe2\x82",
        "\xe2\x82"
        "a",
        "\xf0\x9f\x98", "\xff"}) {
    CHECK(offset("ab" + std::string(bad)) == 2);
    CHECK(offset("ab" + std::string(bad) + "cdef") == 2);
  }
  const std::string message = error_of([] { parse(small()).encode("abc\xff"); });
  CHECK(message.find("byte offset 3 (0xff)") != std::string::npos);
}

TEST_CASE("texts and token ids from files") {
  const Scratch scratch;
  const std::string path = scratch / "f";
  const auto ids = [&](const std::string& content) {
    put_file(path, content);
    return read_token_ids(path);
  };
  const auto refused = [&](const std::string& content) { return error_of([&] { ids(content); }); };
  CHECK(ids(" 1 22\n\t0\r\n2147483647") == Ids{1, 22, 0, 2147483647});
  CHECK(ids("\n[1, 22 ,0]\n") == Ids{1, 22, 0});
  CHECK(refused("") == path + ": has no token ids");
  CHECK(refused("[]") == path + ": has no token ids");
  CHECK(refused("1 -2").find("token 1 is \"-2\"") != std::string::npos);
  CHECK(refused("1,2").find("token 0 is \"1,2\"") != std::string::npos);
  CHECK(refused("2147483648").find("token 0") != std::string::npos);
  CHECK(refused("[1, 2.5]").find("token 1 is \"2.5\"") != std::string::npos);
  CHECK(refused("[1, 2").find("JSON array") != std::string::npos);
  put_file(path,
           "\xef\xbb\xbf"
           "a\r\n");
  CHECK(read_text(path) ==
        "\xef\xbb\xbf"
        "a\r\n");
  put_file(path, "a\xff");
  CHECK(error_of([&] { read_text(path); }).starts_with(path + ": is not UTF-8 at byte offset 1"));
}

TEST_CASE("the passage is the one that its header describes") {
  const std::string_view passage = default_passage();
  CHECK(passage.size() == 15475);
  CHECK(passage.starts_with("No one who had ever seen Catherine Morland in her infancy"));
  CHECK(XXH64(passage.data(), passage.size(), 0) == 0x53f21d820c8eb561);
}
