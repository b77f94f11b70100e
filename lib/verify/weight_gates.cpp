#include "lib/verify/weight_gates.h"

#include <cmath>

namespace tq {
namespace {

template <class ValueOf>
WeightGate judge(const std::string& name, double limit, const WeightPlan& plan, const WeightRecords& records, ValueOf value_of) {
  WeightGate gate{name, limit, std::nan(""), "", 0};
  for (std::size_t i = 0; i < plan.items.size(); ++i) {
    if (!plan.items[i].is_quantized() || !records[i] || records[i]->stats.rows_checked == 0) continue;
    const double value = value_of(plan.items[i], records[i]->stats);
    if (!(value <= limit)) ++gate.failed;
    if (gate.tensor.empty() || value > gate.value) {
      gate.value = value;
      gate.tensor = plan.items[i].name();
    }
  }
  return gate;
}

}  // namespace

double mse_ratio(const WeightItem& item, const WeightStats& stats) { return stats.relative_mse / item.codec->distortion(); }

std::vector<WeightGate> judge_weights(const WeightPlan& plan, const WeightRecords& records, const WeightGateOptions& options) {
  std::vector<WeightGate> gates;
  if (options.max_rel_mse) {
    gates.push_back(judge("max-rel-mse", *options.max_rel_mse, plan, records,
                          [](const WeightItem&, const WeightStats& stats) { return stats.relative_mse; }));
  }
  if (options.max_rel_mse_ratio) gates.push_back(judge("max-rel-mse-ratio", *options.max_rel_mse_ratio, plan, records, mse_ratio));
  return gates;
}

}  // namespace tq
