// Gates: a limit on a measured value, and whether the negative controls are caught by it. A gate that a control passes
// measures nothing, so its pass means nothing either. A control must be noticed in every layer: one layer that is blind to
// it is one layer that is not measured.
#pragma once

#include "lib/verify/report.h"

namespace tq {

struct GateOptions {
  std::optional<double> threshold;  ///< least flattened cosine of a layer, K and V; nothing: default_threshold()
  std::optional<double> min_token_cosine;      ///< least cosine of a token
  std::optional<double> max_rel_mse_ratio;     ///< largest relative MSE over D
  std::optional<double> max_attention_kl;      ///< largest mean KL of the softmax of a layer, nats
  std::optional<double> min_attention_top1;    ///< least top-1 agreement of a layer
};

/// .99 where K and V have 4 bits or more; else sqrt(1 - D) - .005, with the largest D of the narrower of K and V: the
/// cosine that a perfect codec has on average, and half a percent of room. `parts`: "kv", or of one of them alone.
double default_threshold(const std::vector<LayerReport>& layers, std::string_view parts = "kv");

/// Judges every gate that is asked for. Three are always on: `threshold` (by default, where keys have a QJL sketch, of V
/// alone, and `threshold-keys` of the codes of K); `codebook-bound`, that D of the codebook in use
/// is at most Theorem 1's bound (no data enters, so it has no controls); and, for keys with a QJL sketch, `qjl-slope`,
/// that the slope of the estimator lies within .05 of 1.
std::vector<GateReport> judge(const std::vector<LayerReport>& layers, const GateOptions& options);

/// A failed gate is a failure; else, where a gate had nothing to measure or a control passes it, not measured; else a pass.
Verdict overall_verdict(const std::vector<GateReport>& gates);

}  // namespace tq
