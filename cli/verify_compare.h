// tq verify --compare: schemes side by side.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/verify_model.h"
#include "lib/device.h"

namespace tq::cli {

struct CompareArguments {
  std::vector<std::string> schemes;  ///< as --compare takes them
  bool markdown = false;

  void declare(CLI::App& app);
};

/// Measures the schemes on a dump (`kv`) or on a model (`model.model`), one of which is not empty, and prints the table.
ExitCode run_compare(const CompareArguments& arguments, const std::string& kv, const ModelArguments& model,
                     std::optional<std::int64_t> tokens, int threads, const Device& device, std::int64_t attention_queries,
                     bool json, bool quiet);

}  // namespace tq::cli
