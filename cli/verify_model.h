// The part of tq verify that runs a model.
#pragma once

#include "cli/command.h"
#include "cli/prompt_options.h"
#include "lib/device.h"
#include "lib/verify/model_source.h"
#include "lib/verify/verify_model.h"

namespace tq::cli {

struct ModelArguments {
  std::string model;
  PromptArguments prompt;
  bool allow_random = false;
  bool check = false;
  std::string with_weights;
  std::optional<std::int64_t> window;
  std::int64_t greedy = 0;
  EffectGateOptions gates;

  /// --model and what goes with it, but for --tokens and gates.
  void declare(CLI::App& app, const char* source_group);
  /// After declare().
  void declare_gates(CLI::App& app, const char* group);

 private:
  CLI::Option* option_ = nullptr;
};

/// Runs the model and measures. `tokens`: --tokens, if it was given. `cache`: K and V are compressed.
VerifyReport measure_model(const ModelArguments& arguments, std::optional<std::int64_t> tokens, VerifyOptions options,
                           bool cache, const Device& device, bool quiet);

/// The reference pass alone, whose first window fills `source`: what schemes are then measured against. `device` must outlive the
/// result.
ModelEffect run_reference(const Model& model, const ModelArguments& arguments, std::optional<std::int64_t> tokens, int threads,
                          ForwardDevice* device, ModelSource& source);

/// --check: says whether and how tq would run the model; reads headers only.
ExitCode check_model(const ModelArguments& arguments, bool json);

}  // namespace tq::cli
