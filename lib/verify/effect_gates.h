// Gates on the model's output. A gate passes only when the end of the 95 % interval on its bad side passes, so that a text
// too short to know is no pass. Its negative controls are whole passes with something broken in the change's place; a control
// is caught only when even its estimate fails.
#pragma once

#include <optional>
#include <span>

#include "lib/verify/report.h"

namespace tq {

struct EffectGateOptions {
  std::optional<double> max_kld;         ///< largest mean KL, nats a token
  std::optional<double> max_ppl_ratio;   ///< largest ratio of the perplexities
  std::optional<double> min_token_top1;  ///< least share of tokens whose most likely successor stays the same

  bool any() const { return max_kld || max_ppl_ratio || min_token_top1; }
};

/// One pass with a control in place: of K and V both ('b'), or of the packed weights ('w').
struct EffectControl {
  char part;
  Control control;
  TokenSummary tokens;
};

std::vector<GateReport> judge_effect(const TokenSummary& tokens, std::span<const EffectControl> controls,
                                     const EffectGateOptions& options);

}  // namespace tq
