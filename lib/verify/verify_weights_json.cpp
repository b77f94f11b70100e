#include <cmath>
#include <nlohmann/json.hpp>

#include "lib/verify/verify_weights.h"

namespace tq {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kSchemaVersion = 2;

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

void add_groups(Json& json, const GroupCounts& groups) {
  json["groups"] = groups.whole;
  json["requantized_groups"] = groups.whole_changed;
  json["padded_groups"] = groups.padded;
  json["requantized_padded_groups"] = groups.padded_changed;
}

Json tensor_json(const WeightTensorReport& t) {
  Json json = {{"name", t.name},
          {"shape", t.shape},
          {"bits", t.bits},
          {"state", std::string(name_of(t.state))},
          {"source_dtype", std::string(name_of(t.source_dtype))},
          {"stored_dtype", std::string(name_of(t.stored_dtype))},
          {"source_bytes", t.source_bytes},
          {"stored_bytes", t.stored_bytes},
          {"relative_mse", number(t.relative_mse)},
          {"distortion", number(t.distortion)},
          {"mse_ratio", number(t.mse_ratio)},
          {"cosine", number(t.cosine)},
          {"cosine_min", number(t.cosine_min)},
          {"worst_row", t.worst_row},
          {"norm_bias", number(t.norm_bias)},
          {"max_abs_error", number(t.max_abs_error)},
          {"other_seed_mse", number(t.other_seed_mse)}};
  add_groups(json, t.groups);
  return json;
}

}  // namespace

std::string format_weights_report_json(const VerifyWeightsReport& report, int exit_code) {
  Json json;
  json["schema_version"] = kSchemaVersion;
  json["kind"] = "weights";
  json["status"] = std::string(name_of(report.verdict));
  json["exit_code"] = exit_code;
  json["tq"] = TQ_VERSION;
  json["packed"] = report.packed_dir;
  json["against"] = report.source_dir;
  json["backend"] = report.backend;
  json["hashes_checked"] = report.hashes_checked;
  json["bytes"] = {{"source", report.source_bytes},
                   {"packed", report.stored_bytes},
                   {"ratio", number(static_cast<double>(report.source_bytes) / static_cast<double>(report.stored_bytes))}};
  json["quantized_values"] = report.quantized_values;
  add_groups(json, report.groups);
  json["relative_mse"] = number(report.relative_mse);
  json["gates"] = Json::array();
  for (const WeightGateReport& gate : report.gates) {
    json["gates"].push_back({{"name", gate.name},
                             {"passes_if", "value <= limit"},
                             {"limit", number(gate.limit)},
                             {"value", number(gate.value)},
                             {"worst_tensor", gate.worst.empty() ? Json(nullptr) : Json(gate.worst)},
                             {"passed", gate.passed},
                             {"sensitive", gate.sensitive}});
  }
  json["tensors"] = Json::array();
  for (const WeightTensorReport& tensor : report.tensors) json["tensors"].push_back(tensor_json(tensor));
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace tq
