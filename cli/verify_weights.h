// tq verify --weights: a native TQ3 checkpoint beside the model that it was made from.
#pragma once

#include <string>

#include "lib/error.h"
#include "lib/verify/verify_weights.h"

namespace tq::cli {

struct VerifyWeightsCommand {
  std::string weights;  ///< TQ3 directory, or hub id
  std::string against;  ///< model directory, or hub id
  WeightGateOptions gates;
  int threads = 1;
  bool json = false;
  bool quiet = false;
};

ExitCode run_verify_weights(const VerifyWeightsCommand& command, const Backend& backend);

/// 0 pass, 1 a gate failed, 3 not measured.
ExitCode exit_code_of(Verdict verdict);

}  // namespace tq::cli
