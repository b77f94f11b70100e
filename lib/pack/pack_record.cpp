#include "lib/pack/pack_record.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "lib/error.h"
#include "lib/io/kv_file.h"

namespace tq {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kVersion = 2;  // of the journal
constexpr std::string_view kPartsOption = "number of parts (--shard)";

/// What belongs to a model besides its weights and config.json.
constexpr std::array<std::string_view, 10> kCompanionEndings = {".json", ".jinja", ".model", ".txt",  ".py",
                                                                ".tiktoken", ".md", ".spm", ".vocab", ".tekken"};
constexpr std::array<std::string_view, 3> kCompanionBeginnings = {"LICENSE", "NOTICE", "USE_POLICY"};
/// These describe the weights of the source, and would be wrong beside those of the output.
constexpr std::array<std::string_view, 6> kNotCompanions = {"config.json", "tq_config.json", "quantize_config.json",
                                                            "quant_config.json", "quantization_config.json",
                                                            "hf_quant_config.json"};

Json describe_file(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    throw Error(fmt::format("{}: cannot be examined: {}", path, describe_errno(errno)));
  }
  return {{"size", status.st_size}, {"time", fmt::format("{}.{:09}", status.st_mtim.tv_sec, status.st_mtim.tv_nsec)}};
}

Json format_options(const WeightOptions& options) {
  Json json;
  json["--bits"] = options.bits;
  json["--group-size"] = options.group_size;
  json["--sensitive-bits"] = options.sensitive_bits;
  json["--sensitive-pattern"] = options.sensitive_patterns;
  json["--skip"] = options.skip;
  json["--skip-router"] = options.skip_router;
  json["--keep-dtype"] = options.keep_f16 ? "f16" : "same";
  json["--max-shard-size"] = options.max_shard_bytes;
  json["--effort"] = options.effort;
  json[std::string(kPartsOption)] = options.parts;
  return json;
}

WeightOptions parse_options(const Json& json) {
  WeightOptions options;
  options.bits = json.at("--bits").get<int>();
  options.group_size = json.at("--group-size").get<int>();
  options.sensitive_bits = json.at("--sensitive-bits").get<int>();
  options.sensitive_patterns = json.at("--sensitive-pattern").get<std::vector<std::string>>();
  options.skip = json.at("--skip").get<std::vector<std::string>>();
  options.skip_router = json.at("--skip-router").get<bool>();
  options.keep_f16 = json.at("--keep-dtype").get<std::string>() == "f16";
  options.max_shard_bytes = json.at("--max-shard-size").get<std::uint64_t>();
  options.effort = json.at("--effort").get<int>();
  options.parts = json.at(std::string(kPartsOption)).get<int>();
  return options;
}

std::optional<Difference> compare_objects(const Json& before, const Json& now, const std::string& what) {
  for (const auto& [key, value] : before.items()) {
    if (!now.contains(key)) return Difference{what + key, value.dump(), ""};
    if (value.is_object() && now[key].is_object()) {  // equal in whatever order their keys are
      if (auto difference = compare_objects(value, now[key], what + key + ": its ")) return difference;
    } else if (now[key] != value) {
      return Difference{what + key, value.dump(), now[key].dump()};
    }
  }
  for (const auto& [key, value] : now.items()) {
    if (!before.contains(key)) return Difference{what + key, "", value.dump()};
  }
  return std::nullopt;
}

/// NaN has no JSON.
Json format_number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }
double parse_number(const Json& json) { return json.is_null() ? std::nan("") : json.get<double>(); }

}  // namespace

std::vector<std::string> list_companions(const std::string& dir) {
  std::vector<std::string> names;
  std::error_code error;
  const fs::directory_iterator entries(dir, error);
  if (error) throw Error(fmt::format("{}: cannot be listed: {}; look whether the directory was moved", dir, error.message()));
  for (const fs::directory_entry& entry : entries) {
    const std::string name = entry.path().filename().string();
    std::error_code ignored;
    if (!entry.is_regular_file(ignored) || name.starts_with('.') || name.ends_with(".index.json")) continue;
    if (std::find(kNotCompanions.begin(), kNotCompanions.end(), name) != kNotCompanions.end()) continue;
    const auto ends = [&](std::string_view ending) { return name.ends_with(ending); };
    const auto begins = [&](std::string_view beginning) { return name.starts_with(beginning); };
    if (std::any_of(kCompanionEndings.begin(), kCompanionEndings.end(), ends) ||
        std::any_of(kCompanionBeginnings.begin(), kCompanionBeginnings.end(), begins)) {
      names.push_back(name);
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string make_fingerprint(const Checkpoint& source, const WeightOptions& options) {
  Json json;
  json["version of tq"] = TQ_VERSION;
  json["option"] = format_options(options);
  Json& files = json["file"];
  files = Json::object();
  for (const SafetensorsFile& shard : source.shards()) {
    Json& file = files[fs::path(shard.file().path()).filename().string()];
    file = describe_file(shard.file().path());
    file["header"] = format_hash(XXH64(shard.header().data(), shard.header().size(), 0));
  }
  std::vector<std::string> others = list_companions(source.dir());
  others.emplace_back(kModelConfigName);
  for (const std::string& name : others) {
    std::error_code ignored;
    const std::string path = (fs::path(source.dir()) / name).string();
    if (fs::exists(path, ignored)) files[name] = describe_file(path);
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string portable_fingerprint(const std::string& fingerprint) {
  Json json = Json::parse(fingerprint);
  for (auto& [name, file] : json.at("file").items()) file.erase("time");
  json.at("option").erase(std::string(kPartsOption));
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string weights_fingerprint(const std::string& fingerprint) {
  Json json = Json::parse(fingerprint);
  Json weights = Json::object();
  for (const auto& [name, file] : json.at("file").items()) {
    if (file.contains("header")) weights[name] = file;
  }
  json["file"] = weights;
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string hash_fingerprint(const std::string& fingerprint) {
  const std::string text = portable_fingerprint(fingerprint);
  return format_hash(XXH64(text.data(), text.size(), 0));
}

std::string Difference::describe() const {
  if (before.empty()) return what + " is new";
  if (now.empty()) return what + " was there and is gone";
  return fmt::format("{} was {} and is {}", what, before, now);
}

std::optional<Difference> find_difference(const std::string& before, const std::string& now) {
  if (before == now) return std::nullopt;
  const Json a = Json::parse(before);
  const Json b = Json::parse(now);
  std::optional<Difference> difference = compare_objects(a.at("option"), b.at("option"), "option ");
  if (!difference) difference = compare_objects(a.at("file"), b.at("file"), "source file ");
  return difference ? difference : compare_objects(a, b, "");
}

void compare_fingerprints(const std::string& before, const std::string& now, const std::string& where) {
  const std::optional<Difference> difference = find_difference(before, now);
  if (!difference) return;
  throw Error(fmt::format("{}: cannot be continued: {}; undo that, or start again with --force", where, difference->describe()));
}

std::string journal_name(int part, int parts) {
  return parts == 1 ? "tq-pack.journal" : fmt::format("tq-pack-{:05d}-of-{:05d}.journal", part, parts);
}

std::optional<PartName> parse_journal_name(const std::string& name) {
  if (name == journal_name(1, 1)) return PartName{1, 1};
  PartName found{};
  if (std::sscanf(name.c_str(), "tq-pack-%5d-of-%5d", &found.part, &found.parts) != 2) return std::nullopt;
  if (found.parts < 2 || name != journal_name(found.part, found.parts)) return std::nullopt;
  return found;
}

std::string format_run(const PackRun& run) {
  const Json json = {{"journal", "tq pack-weights"}, {"version", kVersion}, {"model", run.model},
                     {"source", run.source_dir}, {"part", run.part}, {"replace", run.replace},
                     {"fingerprint", Json::parse(run.fingerprint)}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

PackRun parse_run(const std::string& line, const std::string& where) {
  try {
    const Json json = Json::parse(line);
    if (json.at("version").get<int>() == kVersion) {
      const Json& fingerprint = json.at("fingerprint");
      return {json.at("model").get<std::string>(), json.at("source").get<std::string>(),
              parse_options(fingerprint.at("option")), json.at("part").get<int>(), json.at("replace").get<bool>(),
              fingerprint.dump(-1, ' ', false, Json::error_handler_t::replace)};
    }
  } catch (const nlohmann::json::exception&) {
  }
  throw Error(fmt::format("{}: was not written by this version of tq; start again with --force", where));
}

std::string format_record(const WeightItem& item, const WeightRecord& record) {
  Json json = {{"tensor", item.name()}, {"source", record.source_hash}, {"data", record.data_hash}};
  if (const F16Losses& losses = record.losses; losses.any()) {
    json["f16"] = {losses.zeroed, losses.largest_zeroed, losses.subnormal, losses.largest_subnormal};
  }
  if (item.is_quantized()) {
    const WeightStats& stats = record.stats;
    json["norms"] = record.norms_hash;
    json["rows_checked"] = stats.rows_checked;
    json["values_checked"] = stats.values_checked;
    json["relative_mse"] = format_number(stats.relative_mse);
    json["worst_row"] = stats.worst_row;
    json["worst_cosine"] = format_number(stats.worst_cosine);
    json["kurtosis"] = format_number(stats.kurtosis);
  }
  return json.dump();
}

std::string format_loss(const WeightItem& item) { return Json{{"tensor", item.name()}, {"lost", true}}.dump(); }

void parse_records(const std::vector<std::string>& lines, const WeightPlan& plan, WeightRecords& records,
                   const std::string& where) {
  std::unordered_map<std::string_view, std::size_t> items;
  for (std::size_t i = 0; i < plan.items.size(); ++i) items.emplace(plan.items[i].name(), i);
  records.resize(plan.items.size());
  try {
    for (std::size_t line = 1; line < lines.size(); ++line) {
      const Json json = Json::parse(lines[line]);
      const std::size_t index = items.at(json.at("tensor").get<std::string>());
      records[index].reset();
      if (json.contains("lost")) continue;
      WeightRecord record;
      record.source_hash = json.at("source").get<std::string>();
      record.data_hash = json.at("data").get<std::string>();
      if (json.contains("f16")) {
        const Json& f16 = json["f16"];
        record.losses = {f16.at(0).get<std::int64_t>(), f16.at(1).get<double>(), f16.at(2).get<std::int64_t>(), f16.at(3).get<double>()};
      }
      if (plan.items[index].is_quantized()) {
        record.norms_hash = json.at("norms").get<std::string>();
        record.stats = {json.at("rows_checked").get<std::int64_t>(), json.at("values_checked").get<std::int64_t>(),
                        parse_number(json.at("relative_mse")), json.at("worst_row").get<std::int64_t>(),
                        parse_number(json.at("worst_cosine")), parse_number(json.at("kurtosis"))};
      }
      records[index] = std::move(record);
    }
  } catch (const std::exception&) {  // of the JSON library, or a tensor that is not planned
    throw Error(fmt::format("{}: a line does not fit the plan; start again with --force", where));
  }
}

}  // namespace tq
