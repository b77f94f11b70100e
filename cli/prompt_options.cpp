#include "cli/prompt_options.h"

#include <fmt/format.h>

#include <charconv>
#include <set>

#include "lib/error.h"

namespace tq::cli {
namespace {

constexpr int kMostLayers = 4096;

std::optional<int> parse_layer(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool fine = error == std::errc() && end == text.data() + text.size() && value >= 0 && value < kMostLayers;
  return fine ? std::optional(value) : std::nullopt;
}

}  // namespace

void PromptArguments::declare(CLI::App& app, CLI::Option* needs) {
  const char* group = "Text (at most one; default: a passage of English prose)";
  CLI::Option* text = app.add_option("--prompt", text_, "the text itself");
  CLI::Option* file = app.add_option("--prompt-file", file_, "a file with UTF-8 text, - for stdin");
  CLI::Option* ids = app.add_option("--token-ids", token_ids_,
                                    "a file with token ids, separated by white space or as a JSON array, - for stdin; "
                                    "no tokenizer is needed");
  for (CLI::Option* option : {text, file, ids}) {
    option->group(group)->default_str("");
    if (needs != nullptr) option->needs(needs);
  }
  text->excludes(file)->excludes(ids);
  file->excludes(ids);
  CLI::Option* mla = app.add_option("--mla", mla_,
                                    "multi-head latent attention (DeepSeek): expanded, keys and values of every head; "
                                    "latent, the latent and rotary part that a cache holds, as one head")
                         ->check(CLI::IsMember({"expanded", "latent"}));
  if (needs != nullptr) mla->needs(needs)->group("With --model");
}

PromptOptions PromptArguments::resolve(std::optional<std::int64_t> tokens) const {
  return {text_, file_, token_ids_, tokens};
}

std::vector<int> parse_layers(const std::string& text) {
  std::set<int> layers;
  std::string_view rest = text;
  while (true) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    const std::string_view part = rest.substr(0, comma);
    const std::size_t dash = part.find('-');
    const std::optional<int> first = parse_layer(part.substr(0, dash));
    const std::optional<int> last = dash == std::string_view::npos ? first : parse_layer(part.substr(dash + 1));
    if (!first || !last || *last < *first) {
      throw UsageError(fmt::format("--layers: '{}' is no list of layers such as 0,5,10-12", text));
    }
    for (int layer = *first; layer <= *last; ++layer) layers.insert(layer);
    if (comma == rest.size()) return {layers.begin(), layers.end()};
    rest.remove_prefix(comma + 1);
  }
}

}  // namespace tq::cli
