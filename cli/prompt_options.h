// Options of the subcommands that run a model.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "lib/model/prompt.h"

namespace tq::cli {

/// --prompt | --prompt-file | --token-ids, and --mla. (--tokens is declared where it has its meaning.)
class PromptArguments {
 public:
  /// `needs`: the option without which these make no sense, or nullptr.
  void declare(CLI::App& app, CLI::Option* needs);
  /// With that many tokens, or the default.
  PromptOptions resolve(std::optional<std::int64_t> tokens) const;
  bool mla_latent() const { return mla_ == "latent"; }

 private:
  std::optional<std::string> text_;
  std::string file_;
  std::string token_ids_;
  std::string mla_ = "expanded";
};

/// "0,5,10-12" -> 0, 5, 10, 11, 12, ascending, each once. UsageError for anything else.
std::vector<int> parse_layers(const std::string& text);

}  // namespace tq::cli
