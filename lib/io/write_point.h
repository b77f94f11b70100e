// Named places at which a resumable writer has just changed something on disk. A test makes the process end there, as a
// kill would, to prove that what is on disk can be resumed.
#pragma once

#include <string_view>

namespace tq {

/// Ends the process by SIGKILL if the environment variable TQ_TEST_KILL_AT is "NAME" or "NAME:N", at the N-th time (from 1)
/// that the process comes by. Else costs nothing. Thread-safe.
void pass_write_point(std::string_view name);

/// True if TQ_TEST_KILL_AT is set.
bool write_points_armed();

}  // namespace tq
