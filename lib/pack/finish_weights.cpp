#include "lib/pack/finish_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "lib/error.h"
#include "lib/io/atomic_file.h"
#include "lib/io/config_text.h"
#include "lib/io/staged_file.h"
#include "lib/io/write_point.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kCopyBytes = std::size_t{1} << 20;
const std::string kNoHash(16, '0');

std::string join_path(const std::string& dir, std::string_view name) { return (fs::path(dir) / name).string(); }

void write_text(const std::string& path, const std::string& text) {
  AtomicFile file = AtomicFile::open(path, true);
  file.reserve(text.size());
  file.write(0, std::as_bytes(std::span(text)));
  file.commit();
}

void copy_file(const std::string& from, const std::string& to) {
  const InputFile source = InputFile::open(from);
  AtomicFile file = AtomicFile::open(to, true);
  file.reserve(source.size());
  std::vector<std::byte> buffer(std::min<std::uint64_t>(source.size(), kCopyBytes));
  for (std::uint64_t done = 0; done < source.size();) {
    const std::span<std::byte> part(buffer.data(), std::min<std::uint64_t>(buffer.size(), source.size() - done));
    source.read(done, part);
    file.write(done, part);
    done += part.size();
  }
  file.commit();
}

/// Of files of the same size.
bool is_same_file(const std::string& path, const std::string& other) {
  const InputFile a = InputFile::open(path), b = InputFile::open(other);
  std::vector<std::byte> here(std::min<std::uint64_t>(a.size(), kCopyBytes)), there(here.size());
  for (std::uint64_t done = 0; done < a.size(); done += here.size()) {
    here.resize(std::min<std::uint64_t>(here.size(), a.size() - done));
    there.resize(here.size());
    a.read(done, here);
    b.read(done, there);
    if (here != there) return false;
  }
  return true;
}

void remove_file(const fs::path& path) {
  std::error_code error;
  if (fs::remove(path, error); error) throw Error(fmt::format("{}: cannot be deleted: {}", path.string(), error.message()));
}

/// An earlier result, the file that makes it a model first. What this run has put in place already stays.
void remove_earlier_result(const std::string& dir, const WeightPlan& plan) {
  for (const std::string_view name : {kModelConfigName, kIndexName, kTq3ConfigName}) remove_file(fs::path(dir) / name);
  std::set<std::string> in_place;
  for (const WeightShard& shard : plan.shards) {
    if (!StagedFile::find(join_path(dir, shard.name))) in_place.insert(shard.name);
  }
  std::vector<fs::path> old;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") && !in_place.contains(name)) old.push_back(entry.path());
  }
  for (const fs::path& path : old) remove_file(path);
  pass_write_point("earlier-result-removed");
}

/// Left by a run that was killed while it wrote one of the small files.
void remove_strays(const std::string& dir, const std::vector<std::string>& small_files) {
  std::vector<fs::path> strays;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
    const std::string name = entry.path().filename().string();
    const auto is_temporary = [&](const std::string& file) { return name.starts_with(file + ".tmp-"); };  // see AtomicFile
    if (std::any_of(small_files.begin(), small_files.end(), is_temporary)) strays.push_back(entry.path());
  }
  for (const fs::path& path : strays) remove_file(path);
}

/// The id on the hub, or the name of the directory: where it lies on this machine is nobody's business.
std::string name_model(const std::string& model, const std::string& source_dir) {
  std::error_code ignored;
  if (!fs::is_directory(model, ignored)) return model;
  return fs::path(source_dir).filename().string();
}

}  // namespace

void remove_partial_files(const std::string& dir) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
    if (entry.path().filename().string().ends_with(fmt::format(".safetensors{}", kPartialSuffix))) files.push_back(entry.path());
  }
  for (const fs::path& path : files) remove_file(path);
}

std::optional<std::string> make_model_config(const std::string& source_dir) {
  const std::string path = join_path(source_dir, kModelConfigName);
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return std::nullopt;
  std::string text = read_text_file(path);
  const ConfigText config = without_non_finite(text);
  nlohmann::ordered_json json = nlohmann::ordered_json::parse(config.json, nullptr, false);
  if (!json.is_object()) throw Error(fmt::format("{}: is no JSON object in UTF-8; get it again", path));
  if (!json.contains("quantization_config")) return text;
  if (config.has_non_finite) {
    throw Error(fmt::format("{}: holds NaN or Infinity, which JSON has not, beside a quantization_config that has to go; delete that yourself",
                            path));
  }
  json.erase("quantization_config");
  return json.dump(2) + "\n";
}

std::optional<std::string> make_index(const WeightPlan& plan) {
  if (plan.shards.size() <= 1) return std::nullopt;
  nlohmann::json json;
  json["metadata"]["total_size"] = plan.tensor_bytes;
  nlohmann::json& map = json["weight_map"];
  for (const auto& [name, shard] : plan.weight_map) map[name] = plan.shards[static_cast<std::size_t>(shard)].name;
  return json.dump(2) + "\n";
}

std::string make_tq3_config(const WeightPlan& plan, const PackRun& run, const WeightRecords& records) {
  Tq3Config config;
  config.bits = plan.options.bits;
  config.group_size = plan.options.group_size;
  config.original_model = name_model(run.model, run.source_dir);
  config.sensitive_bits = plan.options.sensitive_bits;
  if (config.sensitive_bits != 0) config.sensitive_patterns = sensitive_patterns_of(plan.options);
  config.by_tq = true;
  config.tool = "tq " TQ_VERSION;
  config.effort = plan.options.effort;
  config.fingerprint = hash_fingerprint(run.fingerprint);
  config.made_from = portable_fingerprint(run.fingerprint);
  for (std::size_t i = 0; i < plan.items.size(); ++i) {
    const WeightItem& item = plan.items[i];
    const WeightRecord record = records[i].value_or(WeightRecord{kNoHash, kNoHash, {}, {}, {}});
    const TensorInfo& info = *item.source->info;
    if (item.is_quantized()) {
      config.schemes.emplace(item.bits(), item.codec->scheme());
      config.quantized[info.name] = {item.bits(), info.dtype, info.shape, record.data_hash, record.norms_hash};
    } else {
      config.kept[info.name] = {info.dtype, record.data_hash};
    }
  }
  return format_tq3_config(config);
}

std::vector<OutputSize> list_output(const Checkpoint& source, const WeightPlan& plan, const PackRun& run) {
  std::vector<OutputSize> files;
  for (const WeightShard& shard : plan.shards) {
    if (shard.part == run.part) files.push_back({shard.name, shard.bytes});
  }
  if (plan.options.parts > 1) return files;
  if (const auto index = make_index(plan)) files.push_back({std::string(kIndexName), index->size()});
  files.push_back({std::string(kTq3ConfigName), make_tq3_config(plan, run, WeightRecords(plan.items.size())).size()});
  if (const auto config = make_model_config(source.dir())) files.push_back({std::string(kModelConfigName), config->size()});
  for (const std::string& name : list_companions(source.dir())) {
    files.push_back({name, InputFile::open(join_path(source.dir(), name)).size()});
  }
  return files;
}

bool is_in_place(const std::string& dir, const WeightPlan& plan, const PackRun& run) {
  std::error_code ignored;
  const auto is_there = [&](std::string_view name) { return fs::exists(join_path(dir, name), ignored); };
  if (!is_there(kTq3ConfigName)) return false;
  const Tq3Config config = parse_tq3_config(read_text_file(join_path(dir, kTq3ConfigName)), join_path(dir, kTq3ConfigName));
  const bool weights = std::all_of(plan.shards.begin(), plan.shards.end(), [&](const WeightShard& shard) {
    return is_there(shard.name) && !StagedFile::find(join_path(dir, shard.name));
  });
  return weights && config.by_tq && config.fingerprint == hash_fingerprint(run.fingerprint) &&
         (plan.shards.size() == 1 || is_there(kIndexName)) &&
         (is_there(kModelConfigName) || !fs::exists(join_path(run.source_dir, kModelConfigName), ignored));
}

std::string find_damage(const std::string& dir, const std::vector<OutputSize>& files) {
  for (const OutputSize& file : files) {
    std::error_code error;
    const std::uintmax_t bytes = fs::file_size(join_path(dir, file.name), error);
    if (error) return fmt::format("{} is gone", file.name);
    if (bytes != file.bytes) return fmt::format("{} has {} bytes, not {}", file.name, bytes, file.bytes);
  }
  return "";
}

std::string find_text_damage(const std::string& dir, const WeightPlan& plan, const std::string& source_dir) {
  std::vector<std::pair<std::string, std::string>> texts;
  if (const auto config = make_model_config(source_dir)) texts.emplace_back(kModelConfigName, *config);
  if (const auto index = make_index(plan)) texts.emplace_back(kIndexName, *index);
  for (const auto& [name, text] : texts) {
    if (read_text_file(join_path(dir, name), text.size()) != text) return name + " is not what was written";
  }
  for (const std::string& name : list_companions(source_dir)) {
    if (!is_same_file(join_path(dir, name), join_path(source_dir, name))) return name + " is not what was copied";
  }
  return "";
}

std::vector<std::string> list_strangers(const std::string& dir, const std::vector<OutputSize>& files) {
  std::vector<std::string> strangers;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
    const std::string name = entry.path().filename().string();
    const bool is_ours = std::any_of(files.begin(), files.end(), [&](const OutputSize& file) { return file.name == name; });
    if (!is_ours && entry.is_regular_file()) strangers.push_back(name);
  }
  std::sort(strangers.begin(), strangers.end());
  return strangers;
}

std::string find_quantization(const std::string& source_dir) {
  const std::string path = join_path(source_dir, kModelConfigName);
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return "";
  const auto json = nlohmann::json::parse(without_non_finite(read_text_file(path)).json, nullptr, false);
  if (!json.is_object() || !json.contains("quantization_config") || json["quantization_config"].is_null()) return "";
  const nlohmann::json& quantization = json["quantization_config"];
  const bool is_named = quantization.is_object() && quantization.contains("quant_method") && quantization["quant_method"].is_string();
  return is_named ? quantization["quant_method"].get<std::string>() : "unnamed";
}

void finish_output(const std::string& dir, const WeightPlan& plan, const PackRun& run, const WeightRecords& records,
                   const std::vector<std::string>& journals) {
  const std::optional<std::string> model_config = make_model_config(run.source_dir);
  if (run.replace) remove_earlier_result(dir, plan);
  for (const std::string& name : list_companions(run.source_dir)) {
    copy_file(join_path(run.source_dir, name), join_path(dir, name));
    pass_write_point("companion-copied");
  }
  write_text(join_path(dir, kTq3ConfigName), make_tq3_config(plan, run, records));
  pass_write_point("tq-config-written");
  for (const WeightShard& shard : plan.shards) {
    StagedFile::publish(join_path(dir, shard.name), run.replace);
    pass_write_point("weights-in-place");
  }
  if (const auto index = make_index(plan)) write_text(join_path(dir, kIndexName), *index);
  pass_write_point("index-written");
  if (model_config) write_text(join_path(dir, kModelConfigName), *model_config);
  pass_write_point("config-written");
  // From here on loaders take it.
  std::vector<std::string> small_files = list_companions(run.source_dir);
  for (const std::string_view name : {kTq3ConfigName, kIndexName, kModelConfigName}) small_files.emplace_back(name);
  remove_strays(dir, small_files);
  remove_partial_files(dir);
  for (const std::string& journal : journals) {
    remove_file(journal);
    pass_write_point("journal-removed");
  }
}

}  // namespace tq
