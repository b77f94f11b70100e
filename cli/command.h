// What the files of cli/ share: one function a subcommand, which declares the options and says what to run.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "lib/error.h"

namespace tq::cli {

/// What main() runs once the command line has been read.
using Command = std::function<ExitCode()>;

void add_codebook(CLI::App& app, Command& command);
void add_pack_kv(CLI::App& app, Command& command);
void add_unpack_kv(CLI::App& app, Command& command);
void add_pack_weights(CLI::App& app, Command& command);
void add_merge_shards(CLI::App& app, Command& command);
void add_unpack_weights(CLI::App& app, Command& command);
void add_inspect(CLI::App& app, Command& command);
void add_diff(CLI::App& app, Command& command);
void add_verify(CLI::App& app, Command& command);
void add_plan(CLI::App& app, Command& command);
void add_tokenize(CLI::App& app, Command& command);
void add_capture(CLI::App& app, Command& command);
void add_size(CLI::App& app, Command& command);
void add_bench(CLI::App& app, Command& command);

}  // namespace tq::cli
