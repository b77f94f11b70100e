// The part of tq verify that runs a model.
#pragma once

#include "cli/command.h"
#include "cli/prompt_options.h"
#include "lib/verify/verify_model.h"

namespace tq::cli {

struct ModelArguments {
  std::string model;
  PromptArguments prompt;
  bool allow_random = false;
  bool check = false;

  /// --model and what goes with it, but for --tokens.
  void declare(CLI::App& app, const char* source_group);
};

/// Runs the model and measures. `tokens`: --tokens, if it was given.
VerifyReport measure_model(const ModelArguments& arguments, std::optional<std::int64_t> tokens, VerifyOptions options,
                           bool quiet);

/// --check: says whether and how tq would run the model; reads headers only.
ExitCode check_model(const ModelArguments& arguments, bool json);

}  // namespace tq::cli
