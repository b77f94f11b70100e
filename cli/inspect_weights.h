// tq inspect of weights: a checkpoint's directory, or a safetensors file of any content.
#pragma once

#include <string>

#include "lib/error.h"

namespace tq::cli {

/// `path`: a directory; with `is_file` a safetensors file.
ExitCode inspect_weights(const std::string& path, bool is_file, int threads, bool json);

}  // namespace tq::cli
