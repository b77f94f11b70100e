// Gates on packed weights: the only place that holds an opinion on how far a tensor may be from its source.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "lib/pack/pack_record.h"

namespace tq {

/// Nothing is gated unless it is asked for: rows of a trained model are not random, so a tensor can be far from D with a
/// perfect codec.
struct WeightGateOptions {
  std::optional<double> max_rel_mse;        ///< limit of a tensor's relative MSE
  std::optional<double> max_rel_mse_ratio;  ///< limit of its ratio to D, the codebook's exact distortion
};

/// Relative MSE over the codec's D: 1 on rows of random direction.
double mse_ratio(const WeightItem& item, const WeightStats& stats);

struct WeightGate {
  std::string name;          ///< "max-rel-mse"
  double limit;
  double value;              ///< of the worst tensor; NaN if no tensor was measured
  std::string tensor;        ///< the worst
  std::int64_t failed = 0;   ///< tensors beyond the limit

  bool passed() const { return value <= limit; }
};

/// The gates that were asked for, over the items that have a record.
std::vector<WeightGate> judge_weights(const WeightPlan& plan, const WeightRecords& records, const WeightGateOptions& options);

}  // namespace tq
