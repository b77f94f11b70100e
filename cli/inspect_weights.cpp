#include "cli/inspect_weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "cli/table.h"
#include "cli/terminal.h"
#include "cli/weights_report.h"
#include "lib/pack/weight_summary.h"

namespace tq::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string describe_kind(int bits, DType dtype) {
  return bits != 0 ? fmt::format("{} bit", bits) : fmt::format("kept {}", name_of(dtype));
}

double bits_per_weight(const WeightReader::Tensor& tensor) {
  return tensor.values() == 0 ? 0 : 8.0 * static_cast<double>(tensor.stored_bytes) / static_cast<double>(tensor.values());
}

std::string format_tensors(const WeightReader& reader) {
  Table table({"tensor", "shape", "model", "stored", "bits/weight", "bytes"});
  for (const WeightReader::Tensor& tensor : reader.tensors()) {
    table.add({printable_name(tensor.name), fmt::format("{}", fmt::join(tensor.shape, "x")), std::string(name_of(tensor.dtype)),
               describe_kind(tensor.bits, tensor.kept == nullptr ? DType::kU8 : tensor.kept->info->dtype),
               fmt::format("{:.3f}", bits_per_weight(tensor)), format_count(tensor.stored_bytes)});
  }
  return table.format();
}

std::string format_kinds(const WeightSummary& summary) {
  Table table({"stored", "tensors", "weights", "bits/weight", "bytes", "of the model's"});
  const auto add = [&](const std::string& name, const WeightKind& kind) {
    table.add({name, format_count(static_cast<std::uint64_t>(kind.tensors)), format_count(kind.values),
               fmt::format("{:.3f}", kind.bits_per_weight()), format_count(kind.stored_bytes), format_count(kind.source_bytes)});
  };
  for (const WeightKind& kind : summary.kinds) add(describe_kind(kind.bits, kind.dtype), kind);
  add("total", summary.total);
  return table.format();
}

Json kind_json(const WeightKind& kind) {
  return {{"bits", kind.bits},
          {"dtype", kind.bits != 0 ? Json(nullptr) : Json(std::string(name_of(kind.dtype)))},
          {"tensors", kind.tensors},
          {"weights", kind.values},
          {"bits_per_weight", kind.bits_per_weight()},
          {"bytes", kind.stored_bytes},
          {"source_bytes", kind.source_bytes}};
}

Json report_json(const WeightReader& reader, const WeightSummary& summary) {
  Json json = {{"path", reader.dir()}, {"kind", reader.tq3() != nullptr ? "tq3-weights" : "weights"}};
  if (const Tq3Checkpoint* tq3 = reader.tq3()) {
    const Tq3Config& config = tq3->config();
    json["bits"] = config.bits;
    json["group_size"] = config.group_size;
    json["original_model"] = config.original_model;
    json["by_tq"] = config.by_tq;
    json["tool"] = config.by_tq ? Json(config.tool) : Json(nullptr);
    json["effort"] = config.by_tq ? Json(config.effort) : Json(nullptr);
    json["hashes"] = reader.has_hashes() ? Json("ok") : Json(nullptr);
  }
  json["files"] = reader.checkpoint().shards().size();
  json["file_bytes"] = summary.file_bytes;
  json["source_bytes"] = summary.total.source_bytes;
  json["compression"] = summary.compression();
  json["bits_per_weight"] = summary.total.bits_per_weight();
  json["kinds"] = Json::array();
  for (const WeightKind& kind : summary.kinds) json["kinds"].push_back(kind_json(kind));
  json["tensors"] = Json::array();
  for (const WeightReader::Tensor& tensor : reader.tensors()) {
    json["tensors"].push_back(
        {{"name", tensor.name},
         {"shape", tensor.shape},
         {"dtype", std::string(name_of(tensor.dtype))},
         {"bits", tensor.bits},
         {"stored_dtype", std::string(name_of(tensor.kept == nullptr ? DType::kU8 : tensor.kept->info->dtype))},
         {"bytes", tensor.stored_bytes},
         {"bits_per_weight", bits_per_weight(tensor)}});
  }
  return json;
}

std::string describe_format(const WeightReader& reader) {
  const Tq3Checkpoint* tq3 = reader.tq3();
  if (tq3 == nullptr) return "weights, not quantized by tq";
  const Tq3Config& config = tq3->config();
  return fmt::format("native TQ3 checkpoint, {} bits, groups of {}{}, of {}, by {}", config.bits, config.group_size,
                     config.sensitive_bits != 0 ? fmt::format(", {} bits where sensitive", config.sensitive_bits) : "",
                     config.original_model.empty() ? "an unnamed model" : printable_name(config.original_model),
                     config.by_tq ? fmt::format("{} with effort {}, every hash checked", printable_name(config.tool), config.effort)
                                  : "the published converter (no hashes)");
}

}  // namespace

ExitCode inspect_weights(const std::string& path, bool is_file, int threads, bool json) {
  const auto backend = make_cpu_backend();
  const WeightReader reader =
      is_file ? WeightReader::open_file(path, *backend) : WeightReader::open(path, *backend);
  reader.check_hashes(threads);
  const WeightSummary summary = summarize_checkpoint(reader);
  if (json) {
    fmt::print("{}\n", report_json(reader, summary).dump(2, ' ', false, Json::error_handler_t::replace));
    return ExitCode::kDone;
  }
  const std::size_t files = reader.checkpoint().shards().size();
  fmt::print("{}: {}\n\n{}\n{}\n{} bytes in {} file{}; the model's tensors have {} ({:.2f}x)\n", path, describe_format(reader),
             format_tensors(reader), format_kinds(summary), format_count(summary.file_bytes), files, files == 1 ? "" : "s",
             format_count(summary.total.source_bytes), summary.compression());
  return ExitCode::kDone;
}

}  // namespace tq::cli
