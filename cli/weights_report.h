// What pack-weights prints: the plan, the tensors with what packing cost, the gates; as text and as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lib/pack/finish_weights.h"
#include "lib/pack/pack_weights.h"
#include "lib/verify/weight_gates.h"

namespace tq::cli {

/// Of docs/pack-weights.schema.json; a field that changes, appears or goes raises it.
inline constexpr int kPackReportVersion = 1;

/// What there is to report. `result` is nullptr for a dry run.
struct WeightsReport {
  const WeightPlan* plan;
  const PackRun* run;
  std::string output;
  std::vector<OutputSize> files;
  const PackWeightsResult* result = nullptr;
  std::vector<WeightGate> gates;
  std::vector<std::string> warnings;
  double seconds = 0;
  std::string backend;
  int threads = 0;
};

/// "269,060,552 bytes -> 84,123,456 bytes (3.20x): 210 tensors at 3 bits, 63 kept"; of one part of several, what is its own.
std::string summarize_weights(const WeightPlan& plan, const PackRun& run, const std::vector<OutputSize>& files);
/// A table: a row a quantized tensor, then what is kept, then the files. Of one part of several, what is its own.
std::string format_weights_table(const WeightsReport& report);
std::string format_gate(const WeightGate& gate);
nlohmann::ordered_json weights_json(const WeightsReport& report);
/// One line on what --keep-dtype f16 cost; empty where it cost nothing.
std::string describe_f16_losses(const WeightPlan& plan, const WeightRecords& records);
/// A name as it can be printed: quoted where it holds control or non-ASCII characters.
std::string printable_name(const std::string& name);

}  // namespace tq::cli
