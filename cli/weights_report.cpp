#include "cli/weights_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "cli/table.h"
#include "cli/terminal.h"

namespace tq::cli {
namespace {

using Json = nlohmann::ordered_json;

std::uint64_t sum_bytes(const std::vector<OutputSize>& files) {
  std::uint64_t bytes = 0;
  for (const OutputSize& file : files) bytes += file.bytes;
  return bytes;
}

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

std::string fixed(double value, int decimals) { return std::isfinite(value) ? fmt::format("{:.{}f}", value, decimals) : "-"; }

std::string format_shape(const TensorInfo& info) { return fmt::format("{}", fmt::join(info.shape, "x")); }

Json tensor_json(const WeightItem& item, const std::optional<WeightRecord>& record) {
  const TensorInfo& info = *item.source->info;
  Json json = {{"name", info.name}, {"dtype", name_of(info.dtype)}, {"shape", info.shape}, {"bits", item.bits()},
               {"part", item.part}, {"source_bytes", info.bytes}, {"bytes", item.bytes()}};
  if (!item.is_quantized()) {
    json["stored_dtype"] = name_of(item.stored);
    if (!record) return json;
    json["xxh64"] = record->data_hash;
    if (item.stored != info.dtype) {
      const F16Losses& losses = record->losses;
      json["f16_losses"] = {{"zeroed", losses.zeroed}, {"largest_zeroed", losses.largest_zeroed},
                            {"subnormal", losses.subnormal}, {"largest_subnormal", losses.largest_subnormal}};
    }
    return json;
  }
  json["bits_per_weight"] = item.bits_per_weight();
  json["distortion"] = item.codec->distortion();
  if (!record) return json;
  const WeightStats& stats = record->stats;
  const bool measured = stats.rows_checked > 0;
  json["rows_checked"] = stats.rows_checked;
  json["values_checked"] = stats.values_checked;
  json["relative_mse"] = measured ? number(stats.relative_mse) : Json(nullptr);
  json["relative_mse_ratio"] = measured ? number(mse_ratio(item, stats)) : Json(nullptr);
  json["worst_row"] = measured ? Json(stats.worst_row) : Json(nullptr);
  json["worst_row_cosine"] = measured ? number(stats.worst_cosine) : Json(nullptr);
  json["kurtosis"] = measured ? number(stats.kurtosis) : Json(nullptr);
  json["packed_xxh64"] = record->data_hash;
  json["norms_xxh64"] = record->norms_hash;
  return json;
}

void add_tensor_row(Table& table, const WeightItem& item, const std::optional<WeightRecord>& record) {
  std::vector<std::string> row = {printable_name(item.name()), format_shape(*item.source->info), std::to_string(item.bits()),
                                  fmt::format("{:.3f}", item.bits_per_weight()), format_count(item.bytes())};
  if (record && record->stats.rows_checked > 0) {
    const WeightStats& stats = record->stats;
    for (std::string cell : {fixed(stats.relative_mse, 6), fixed(mse_ratio(item, stats), 3), std::to_string(stats.worst_row),
                             fixed(stats.worst_cosine, 4), fixed(stats.kurtosis, 2),
                             format_count(static_cast<std::uint64_t>(stats.rows_checked))}) {
      row.push_back(std::move(cell));
    }
  }
  row.resize(11, "-");
  table.add(std::move(row));
}

/// A row a tensor that lost something as F16; empty if none did.
std::string format_f16_losses(const WeightsReport& report) {
  if (report.result == nullptr) return "";
  Table table({"kept as F16", "became 0", "largest of them", "below 2^-14, inexact", "largest of them"});
  bool any = false;
  for (std::size_t i = 0; i < report.plan->items.size(); ++i) {
    const std::optional<WeightRecord>& record = report.result->records[i];
    if (!record || !record->losses.any()) continue;
    const F16Losses& losses = record->losses;
    table.add({printable_name(report.plan->items[i].name()), format_count(static_cast<std::uint64_t>(losses.zeroed)),
               fmt::format("{:.3g}", losses.largest_zeroed), format_count(static_cast<std::uint64_t>(losses.subnormal)),
               fmt::format("{:.3g}", losses.largest_subnormal)});
    any = true;
  }
  return any ? table.format() + "\n" : "";
}

}  // namespace

std::string describe_f16_losses(const WeightPlan& plan, const WeightRecords& records) {
  F16Losses all;
  int tensors = 0;
  std::string worst;
  for (std::size_t i = 0; i < records.size(); ++i) {
    if (!records[i] || !records[i]->losses.any()) continue;
    const F16Losses& losses = records[i]->losses;
    if (worst.empty() || losses.largest_zeroed > all.largest_zeroed) worst = plan.items[i].name();
    all.merge(losses);
    ++tensors;
  }
  if (tensors == 0) return "";
  return fmt::format("--keep-dtype f16 lost small values of {} tensors ({} and others): {} became 0, the largest {:.3g}; {} below 2^-14 lost digits, the largest {:.3g}; --keep-dtype same keeps all",
                     tensors, printable_name(worst), format_count(static_cast<std::uint64_t>(all.zeroed)), all.largest_zeroed,
                     format_count(static_cast<std::uint64_t>(all.subnormal)), all.largest_subnormal);
}

std::string printable_name(const std::string& name) {
  const bool plain = !name.empty() && name.size() <= 100 && std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < '\x7f'; });
  return plain ? name : quote_name(name);
}

std::string summarize_weights(const WeightPlan& plan, const PackRun& run, const std::vector<OutputSize>& files) {
  std::map<int, int> counts;
  for (const WeightItem& item : plan.items) counts[item.bits()] += item.part == run.part ? 1 : 0;
  std::string tensors;
  for (const auto& [bits, count] : counts) {
    if (bits > 0 && count > 0) tensors += fmt::format("{} tensors at {} bits, ", count, bits);
  }
  const std::uint64_t bytes = sum_bytes(files);
  const std::uint64_t input = plan.part_input_bytes(run.part);
  return fmt::format("{}{} bytes of tensors -> {} bytes of files ({:.2f}x): {}{} kept",
                     plan.options.parts > 1 ? fmt::format("part {} of {}: ", run.part, plan.options.parts) : "", format_count(input),
                     format_count(bytes), static_cast<double>(input) / static_cast<double>(std::max<std::uint64_t>(bytes, 1)), tensors,
                     counts[0]);
}

std::string format_gate(const WeightGate& gate) {
  return fmt::format("{} {}: {:.6g} of {} (limit {:.6g}){}", gate.passed() ? "pass" : "FAIL", gate.name, gate.value,
                     printable_name(gate.tensor), gate.limit,
                     gate.failed > 0 ? fmt::format("; {} tensors are beyond the limit", gate.failed) : "");
}

std::string format_weights_table(const WeightsReport& report) {
  const WeightPlan& plan = *report.plan;
  Table table({"tensor", "shape", "bits", "bits/weight", "bytes", "rel. MSE", "MSE/D", "worst row", "cosine", "kurtosis", "rows checked"});
  std::map<std::string, std::pair<int, std::uint64_t>> kept;  // "BF16 -> F16" -> tensors, bytes
  for (std::size_t i = 0; i < plan.items.size(); ++i) {
    const WeightItem& item = plan.items[i];
    if (item.part != report.run->part) continue;
    if (item.is_quantized()) {
      add_tensor_row(table, item, report.result != nullptr ? report.result->records[i] : std::nullopt);
    } else {
      const DType from = item.source->info->dtype;
      auto& [count, bytes] = kept[from == item.stored ? std::string(name_of(from)) : fmt::format("{} as {}", name_of(from), name_of(item.stored))];
      ++count;
      bytes += item.bytes();
    }
  }
  std::string text = table.format() + "\n";
  for (const auto& [type, sums] : kept) text += fmt::format("kept: {} tensors of {}, {} bytes\n", sums.first, type, format_count(sums.second));
  std::map<int, double> distortions;
  for (const WeightItem& item : plan.items) {
    if (item.is_quantized() && item.part == report.run->part) distortions[item.bits()] = item.codec->distortion();
  }
  for (const auto& [bits, d] : distortions) text += fmt::format("D of {} bits: {:.6f}\n", bits, d);
  text += "\n" + format_f16_losses(report);
  Table files({"file", "bytes"});
  for (const OutputSize& file : report.files) files.add({printable_name(file.name), format_count(file.bytes)});
  return text + files.format();
}

Json weights_json(const WeightsReport& report) {
  const WeightPlan& plan = *report.plan;
  const WeightOptions& options = plan.options;
  const std::uint64_t input = plan.part_input_bytes(report.run->part);
  Json json = {{"schema_version", kPackReportVersion}, {"model", report.run->model}, {"source", report.run->source_dir}, {"output", report.output},
               {"bits", options.bits}, {"group_size", options.group_size}, {"sensitive_bits", options.sensitive_bits},
               {"effort", options.effort}, {"part", report.run->part}, {"parts", options.parts},
               {"dry_run", report.result == nullptr}, {"complete", report.result != nullptr && report.result->is_complete},
               {"source_bytes", input}, {"tensor_bytes", plan.part_tensor_bytes(report.run->part)}, {"bytes", sum_bytes(report.files)},
               {"compression", static_cast<double>(input) / static_cast<double>(std::max<std::uint64_t>(sum_bytes(report.files), 1))}};
  json["tensors"] = Json::array();
  for (std::size_t i = 0; i < plan.items.size(); ++i) {
    if (plan.items[i].part != report.run->part) continue;
    json["tensors"].push_back(tensor_json(plan.items[i], report.result != nullptr ? report.result->records[i] : std::nullopt));
  }
  json["files"] = Json::array();
  for (const OutputSize& file : report.files) json["files"].push_back({{"name", file.name}, {"bytes", file.bytes}});
  json["gates"] = Json::array();
  for (const WeightGate& gate : report.gates) {
    json["gates"].push_back({{"gate", gate.name}, {"limit", gate.limit}, {"value", number(gate.value)}, {"tensor", gate.tensor},
                             {"failed_tensors", gate.failed}, {"passed", gate.passed()}});
  }
  json["warnings"] = report.warnings;
  if (report.result != nullptr) {
    const double seconds = std::max(report.seconds, 1e-9);
    json["speed"] = {{"backend", report.backend}, {"threads", report.threads}, {"seconds", report.seconds},
                     {"bytes_read", report.result->bytes_read}, {"bytes_written", report.result->bytes_written},
                     {"bytes_per_second", static_cast<double>(report.result->bytes_read) / seconds},
                     {"tensors_resumed", report.result->resumed}};
    for (const auto& [name, spent] : report.result->seconds.all()) json["speed"]["thread_seconds"][std::string(name)] = spent;
    json["speed"]["bound_by"] = report.result->seconds.bound();
    json["files_packed_again"] = report.result->lost;
  }
  return json;
}

}  // namespace tq::cli
