// How tq says that something went wrong: the library throws with context (what, where, what to do about it, in one
// line); main() prints that line once and maps the type to an exit code.
#pragma once

#include <stdexcept>
#include <string>

namespace tq {

/// Exit codes of the `tq` binary.
enum class ExitCode : int {
  kDone = 0,        ///< done, and every gate passed
  kGateFailed = 1,  ///< done, and a gate failed
  kUsage = 2,       ///< wrong usage: only what the command line alone decides
  kCouldNot = 3,    ///< could not be done or measured
};

/// Could not be done or measured: a file's existence or content, a full disk, an unsupported model (exit 3).
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Wrong usage that the command line alone decides (exit 2).
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace tq
