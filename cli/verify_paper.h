// tq verify --paper.
#pragma once

#include <CLI/CLI.hpp>
#include <vector>

#include "lib/error.h"
#include "lib/verify/validate_paper.h"

namespace tq::cli {

struct PaperArguments {
  bool paper = false;
  PaperOptions options;

  /// --paper and --rows.
  void declare(CLI::App& app, const char* source_group);
};

/// Validates, prints a table or JSON, and returns the exit code: 1 a theorem is violated, 3 a control was not noticed.
ExitCode run_verify_paper(PaperOptions options, const Backend& backend, bool json, bool quiet);

}  // namespace tq::cli
