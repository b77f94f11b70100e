// tq tokenize: text to token ids, as a model's tokenizer makes them.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "lib/io/checkpoint.h"
#include "lib/model/text_input.h"
#include "lib/model/tokenizer.h"

namespace tq::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string model;
  std::optional<std::string> text;
  std::optional<std::string> file;
  std::string input;
  bool no_special = false;
  bool json = false;
};

/// The piece on one line: control characters as \xHH.
std::string format_piece(const std::string& piece) {
  std::string line;
  for (const char c : piece) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f)
      line += fmt::format("\\x{:02x}", byte);
    else
      line += c;
  }
  return line;
}

ExitCode run(const Options& options) {
  const Tokenizer tokenizer = Tokenizer::open(find_model_dir(options.model));
  const std::string text = options.text ? *options.text : read_text(options.file.value_or("-"));
  const std::vector<std::int32_t> ids = tokenizer.encode(text, !options.no_special);
  std::vector<std::string> pieces;
  for (const std::int32_t id : ids) pieces.push_back(tokenizer.piece(id).value_or(""));
  if (options.json) {
    fmt::print("{}\n", Json{{"ids", ids}, {"pieces", pieces}}.dump(-1, ' ', false,
                                                                   Json::error_handler_t::replace));
    return ExitCode::kDone;
  }
  fmt::print("{:>8}  piece\n", "id");
  for (std::size_t i = 0; i < ids.size(); ++i)
    fmt::print("{:>8}  {}\n", ids[i], format_piece(pieces[i]));
  return ExitCode::kDone;
}

}  // namespace

void add_tokenize(CLI::App& app, Command& command) {
  auto options = std::make_shared<Options>();
  CLI::App* sub =
      app.add_subcommand("tokenize", "show the token ids that a model's tokenizer makes of a text");
  sub->footer(
      "Examples: tq tokenize --model DIR --text 'Hello world'\n          tq tokenize --model DIR "
      "--file text.txt --json");
  sub->add_option("--model", options->model,
                  "a model's directory, or a hub id in the local Hugging Face cache: its tokenizer.json, "
                  "and tokenizer_config.json if there")
      ->type_name("DIR")
      ->required();
  CLI::Option_group* source = sub->add_option_group("Text", "UTF-8, one of:");
  source->add_option("--text", options->text, "the text itself");
  source->add_option("--file", options->file, "a file with the text")->type_name("FILE");
  source->add_option("INPUT", options->input, "- for stdin")
      ->check([](const std::string& text) {
        return text == "-" ? "" : "'" + text + "' is not -, which is stdin: give a text with --text, a file with --file";
      })
      ->default_str("");
  source->require_option(1);
  sub->add_flag("--no-special", options->no_special,
                "leave out the special tokens that the tokenizer puts around a text");
  sub->add_flag("--json", options->json,
                "print JSON: ids, and pieces as the vocabulary writes them");
  sub->callback([options, &command] { command = [options] { return run(*options); }; });
}

}  // namespace tq::cli
