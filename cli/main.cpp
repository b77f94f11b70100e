// tq: reads the command line, runs one subcommand, prints an error once, and maps it to an exit code.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <iostream>
#include <new>
#include <string>
#include <vector>

#include "cli/command.h"
#include "lib/io/atomic_file.h"

namespace {

constexpr const char* kDescription =
    "tq compresses KV caches and model weights with TurboQuant and proves what that cost.\n"
    "Results go to stdout, progress and messages to stderr.\n"
    "The environment variable TQ_CPU forces a CPU target (scalar, simd128, avx2, avx512), and --device auto to the CPU;\n"
    "no byte depends on it.\n"
    "Exit codes: 0 done, every gate passed; 1 a gate failed; 2 wrong usage; 3 could not be done or measured.";

extern "C" void end_on_signal(int signal) {
  tq::remove_pending_temporaries();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void install_signal_handlers() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    if (std::signal(signal, end_on_signal) == SIG_IGN) std::signal(signal, SIG_IGN);  // nohup stays in force
  }
  std::signal(SIGXFSZ, SIG_IGN);  // the write then fails with EFBIG, and says so
}

int fail(tq::ExitCode code, const std::string& message) {
  std::string line = message;  // whatever a path or a tensor's name holds, it stays one line
  std::replace_if(line.begin(), line.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  std::fprintf(stderr, "tq: %s\n", line.c_str());
  return static_cast<int>(code);
}

int flush_stdout() {
  std::cout.flush();
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0 && std::cout.good()) return 0;
  return fail(tq::ExitCode::kCouldNot, "cannot write to stdout");
}

int run(const tq::cli::Command& command) {
  const tq::ExitCode code = command();
  const int flushed = flush_stdout();
  return flushed != 0 ? flushed : static_cast<int>(code);
}

std::string describe_usage_error(const CLI::App& app, const CLI::ParseError& error, int argc, char** argv) {
  const char* const hint = " ('tq --help' and 'tq COMMAND --help' show the options)";
  if (app.get_subcommands().empty() && argc > 1) return std::string("unknown command '") + argv[1] + "'" + hint;
  const std::string what = error.what();
  const std::size_t name = what.find(": ") + 2;
  if (dynamic_cast<const CLI::ValidationError*>(&error) != nullptr && what.find(' ', name) == std::string::npos) {
    // A set of numbers refuses what is no number by repeating it.
    const CLI::Option* option = app.get_subcommands().front()->get_option_no_throw(what.substr(0, name - 2));
    if (option != nullptr) return what + ": it takes " + option->get_description() + hint;
  }
  if (dynamic_cast<const CLI::ConversionError*>(&error) != nullptr && !app.get_subcommands().empty()) {
    const CLI::Option* option =
        app.get_subcommands().front()->get_option_no_throw(what.substr(name, what.find(" = ") - name));
    if (option != nullptr) return what + ": it takes " + option->get_description() + hint;
  }
  return what + hint;
}

/// The arguments, last first, as CLI11 takes them. It would read "--text= --json" as the text "--json".
std::vector<std::string> read_arguments(int argc, char** argv) {
  std::vector<std::string> arguments;
  bool options = true;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    options &= argument != "--";
    const bool empty = options && argument.size() > 3 && argument.starts_with("--") && argument.find('=') == argument.size() - 1;
    arguments.push_back(empty ? argument.substr(0, argument.size() - 1) : argument);
    if (empty) arguments.emplace_back();
  }
  std::reverse(arguments.begin(), arguments.end());
  return arguments;
}

}  // namespace

int main(int argc, char** argv) {
  install_signal_handlers();
  CLI::App app(kDescription, "tq");
  app.set_version_flag("--version", "tq " TQ_VERSION);
  app.require_subcommand(1);
  app.option_defaults()->always_capture_default();
  tq::cli::Command command;
  tq::cli::add_codebook(app, command);
  tq::cli::add_pack_kv(app, command);
  tq::cli::add_unpack_kv(app, command);
  tq::cli::add_pack_weights(app, command);
  tq::cli::add_merge_shards(app, command);
  tq::cli::add_unpack_weights(app, command);
  tq::cli::add_inspect(app, command);
  tq::cli::add_diff(app, command);
  tq::cli::add_verify(app, command);
  tq::cli::add_plan(app, command);
  tq::cli::add_capture(app, command);
  tq::cli::add_tokenize(app, command);
  tq::cli::add_size(app, command);
  tq::cli::add_bench(app, command);
  for (CLI::App* sub : app.get_subcommands({})) {
    if (CLI::Option* output = sub->get_option_no_throw("--output")) {
      output->check([](const std::string& path) { return path.empty() ? "a path is missing" : ""; }, "");
    }
  }
  try {
    app.parse(read_arguments(argc, argv));
  } catch (const CLI::Success& success) {
    app.exit(success);  // --help and --version
    return flush_stdout();
  } catch (const CLI::ParseError& error) {
    return fail(tq::ExitCode::kUsage, describe_usage_error(app, error, argc, argv));
  }
  try {
    return run(command);
  } catch (const tq::UsageError& error) {
    return fail(tq::ExitCode::kUsage, error.what());
  } catch (const std::bad_alloc&) {
    return fail(tq::ExitCode::kCouldNot, "out of memory; use fewer --threads or a smaller input");
  } catch (const std::exception& error) {
    if (std::ferror(stdout) != 0) return flush_stdout();
    return fail(tq::ExitCode::kCouldNot, error.what());
  }
}
