#include "lib/pack/unpack_weights.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "lib/convert.h"
#include "lib/error.h"
#include "lib/io/config_text.h"
#include "lib/io/output_file.h"
#include "lib/pack/pack_record.h"

namespace tq {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::int64_t kPieceValues = std::int64_t{1} << 19;
constexpr std::uint64_t kCopyBytes = std::uint64_t{1} << 20;

std::string join_path(const std::string& dir, std::string_view name) { return (fs::path(dir) / name).string(); }

bool is_weights_file(const std::string& name) {
  return name == kIndexName || name == kTq3ConfigName || name == kModelConfigName || name.ends_with(".safetensors");
}

/// Names of the regular files in a directory, sorted.
std::vector<std::string> list_files(const std::string& dir) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (it->is_regular_file(ignored)) names.push_back(it->path().filename().string());
  }
  if (error) throw Error(fmt::format("{}: cannot be listed: {}", dir, error.message()));
  std::sort(names.begin(), names.end());
  return names;
}

/// "bfloat16", as config.json has it.
const char* torch_name(DType dtype) {
  return dtype == DType::kBf16 ? "bfloat16" : dtype == DType::kF16 ? "float16" : "float32";
}

std::optional<DType> parse_torch_name(const Json& value) {
  if (!value.is_string()) return std::nullopt;
  std::string name = value.get<std::string>();
  if (name.starts_with("torch.")) name = name.substr(6);
  for (const DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    if (name == torch_name(dtype)) return dtype;
  }
  return std::nullopt;
}

/// config.json as it comes, and the type that it names.
struct ModelConfig {
  Json json;
  std::string text;
  bool has_non_finite = false;  ///< numbers in the text are not all in `json`
  std::optional<DType> dtype;
};

ModelConfig read_config(const std::string& dir) {
  ModelConfig config;
  const std::string path = join_path(dir, kModelConfigName);
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return config;
  config.text = read_text_file(path);
  const ConfigText text = without_non_finite(config.text);
  config.has_non_finite = text.has_non_finite;
  config.json = Json::parse(text.json, nullptr, false);
  if (!config.json.is_object()) throw Error(fmt::format("{}: is not a JSON object; get the file again", path));
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (!config.dtype && config.json.contains(key)) config.dtype = parse_torch_name(config.json[key]);
  }
  return config;
}

/// The text without the quantization, and with `dtype` where it names none or another.
std::string restore_config(const ModelConfig& config, DType dtype) {
  if (config.text.empty()) return "";
  if (!config.json.contains("quantization_config") && config.dtype == dtype) return config.text;
  if (config.has_non_finite) {
    throw Error(fmt::format("{}: holds NaN or Infinity, which JSON has not, and must be written anew for values of {}; leave --dtype out, "
                            "or replace those numbers", kModelConfigName, name_of(dtype)));
  }
  Json json = config.json;
  json.erase("quantization_config");
  if (json.contains("dtype") || !json.contains("torch_dtype")) json["dtype"] = torch_name(dtype);
  if (json.contains("torch_dtype")) json["torch_dtype"] = torch_name(dtype);
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

/// The type that most values have.
DType main_dtype(const std::vector<UnpackWeightsPlan::Item>& items) {
  std::map<DType, std::int64_t> values;
  for (const auto& item : items) {
    if (item.source->is_readable()) values[item.spec.dtype] += item.source->values();
  }
  const auto most = std::max_element(values.begin(), values.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == values.end() ? DType::kBf16 : most->first;
}

std::string make_index(const UnpackWeightsPlan& plan) {
  Json json;
  json["metadata"]["total_size"] = plan.tensor_bytes;
  json["weight_map"] = Json::object();
  for (const auto& shard : plan.shards) {
    for (const auto& item : shard.items) json["weight_map"][item.spec.name] = shard.name;
  }
  return json.dump(2) + "\n";
}

SafetensorsWriter plan_shard(const UnpackWeightsPlan::Shard& shard) {
  std::vector<TensorSpec> specs;
  for (const auto& item : shard.items) specs.push_back(item.spec);
  return SafetensorsWriter(specs, {{"format", "pt"}});
}

void put_text(const std::string& path, const std::string& text) {
  AtomicFile file = AtomicFile::open(path, false);
  file.write(0, std::as_bytes(std::span(text)));
  file.commit();
}

void copy_file(const std::string& from, const std::string& to) {
  const InputFile input = InputFile::open(from);
  AtomicFile output = AtomicFile::open(to, false);
  std::vector<std::byte> bytes;
  for (std::uint64_t done = 0; done < input.size(); done += bytes.size()) {
    bytes.resize(std::min(kCopyBytes, input.size() - done));
    input.read(done, bytes);
    output.write(done, bytes);
  }
  output.commit();
}

/// Where the new model grows: a hidden directory within the output's, on the same file system. Until install() what was there
/// stays as it is; what is left of a run that did not get so far goes away, or looks like no model.
class Staging {
 public:
  explicit Staging(const std::string& out_dir) : out_dir_(out_dir) {
    std::error_code error;
    made_out_dir_ = fs::create_directories(out_dir, error);
    if (error) fail(out_dir, error.message());
    std::string pattern = join_path(out_dir, ".tq-unpacking-XXXXXX");
    if (mkdtemp(pattern.data()) == nullptr) fail(out_dir, describe_errno(errno));
    dir_ = pattern;
  }
  ~Staging() {
    std::error_code ignored;
    fs::remove_all(dir_, ignored);
    if (made_out_dir_ && !installed_) fs::remove(out_dir_, ignored);  // only if it is empty
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  std::string path(std::string_view name) const { return join_path(dir_, name); }

  /// Takes the model away that is there, and gives the new files their places, config.json last: until then no loader takes
  /// the directory for a model.
  void install() {
    std::error_code ignored;
    fs::remove(join_path(out_dir_, kModelConfigName), ignored);
    for (const std::string& name : list_files(out_dir_)) {
      if (is_weights_file(name)) fs::remove(join_path(out_dir_, name), ignored);
    }
    std::vector<std::string> names = list_files(dir_);
    std::stable_partition(names.begin(), names.end(), [](const std::string& name) { return name != kModelConfigName; });
    for (const std::string& name : names) {
      std::error_code error;
      fs::rename(path(name), join_path(out_dir_, name), error);
      if (error) throw Error(fmt::format("{}: cannot be put in place: {}", join_path(out_dir_, name), error.message()));
      installed_ = true;
    }
    sync_directory(out_dir_, out_dir_);
  }

 private:
  [[noreturn]] static void fail(const std::string& out_dir, const std::string& why) {
    throw Error(fmt::format("{}: cannot be written into: {}; choose an output directory that you may write to", out_dir, why));
  }

  std::string out_dir_;
  std::string dir_;
  bool made_out_dir_ = false;
  bool installed_ = false;
};

/// Values first .. first + count - 1 of an item in their type.
void convert_values(const WeightReader& reader, const UnpackWeightsPlan::Item& item, std::int64_t first, std::int64_t count,
                    std::vector<float>& values, std::vector<std::byte>& bytes) {
  const DType dtype = item.spec.dtype;
  bytes.resize(static_cast<std::size_t>(count) * size_of(dtype));
  const Checkpoint::Entry* kept = item.source->kept;
  if (kept != nullptr && kept->info->dtype == dtype) {
    return reader.checkpoint().read(*kept, static_cast<std::uint64_t>(first) * size_of(dtype), bytes);
  }
  values.resize(static_cast<std::size_t>(count));
  reader.read_values(*item.source, first, count, values.data());
  convert_from_float(values.data(), count, dtype, bytes.data());
  if (dtype == DType::kF32) return;
  const float most = dtype == DType::kF16 ? 65520.0f : 0x1.ffp127f;  // from here on it rounds to infinity
  const auto lost = std::find_if(values.begin(), values.end(),
                                 [most](float value) { return std::isfinite(value) && std::abs(value) >= most; });
  if (lost == values.end()) return;
  throw Error(fmt::format("{}: tensor {}: value {} is {}, which is too large for {}; use --dtype {}",
                          reader.path_of(*item.source), quote_name(item.source->name), first + (lost - values.begin()), *lost,
                          name_of(dtype), dtype == DType::kF16 ? "bf16 or f32" : "f32"));
}

void write_shard(const WeightReader& reader, const UnpackWeightsPlan::Shard& shard, const std::string& path,
                 const RunOptions& run) {
  struct Piece {
    std::size_t item;
    std::int64_t first, count;
  };
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < shard.items.size(); ++i) {
    const std::int64_t values = shard.items[i].source->values();
    for (std::int64_t first = 0; first < values; first += kPieceValues) {
      pieces.push_back({i, first, std::min(kPieceValues, values - first)});
    }
  }
  SafetensorsWriter writer = plan_shard(shard);
  writer.create(path, false);
  parallel_for(run.threads, static_cast<std::int64_t>(pieces.size()), [&](std::int64_t index) {
    thread_local std::vector<float> values;
    thread_local std::vector<std::byte> bytes;
    const Piece& piece = pieces[static_cast<std::size_t>(index)];
    const UnpackWeightsPlan::Item& item = shard.items[piece.item];
    convert_values(reader, item, piece.first, piece.count, values, bytes);
    writer.write(piece.item, static_cast<std::uint64_t>(piece.first) * size_of(item.spec.dtype), bytes);
    if (run.progress) run.progress(bytes.size());
  });
  writer.commit();
}

}  // namespace

std::uint64_t UnpackWeightsPlan::file_bytes() const {
  std::uint64_t bytes = 0;
  for (const Shard& shard : shards) bytes += shard.bytes;
  return bytes;
}

UnpackWeightsPlan plan_unpacked_weights(const WeightReader& reader, const UnpackWeightsOptions& options) {
  if (reader.tq3() == nullptr) {
    throw Error(fmt::format("{}: has no {}, so it is no native TQ3 checkpoint and there is nothing to unpack", reader.dir(),
                            kTq3ConfigName));
  }
  const ModelConfig config = read_config(reader.dir());
  std::optional<DType> dtype = options.dtype;
  if (!dtype && !reader.has_hashes()) dtype = config.dtype.value_or(DType::kBf16);
  UnpackWeightsPlan plan;
  std::vector<UnpackWeightsPlan::Item> items;
  for (const WeightReader::Tensor& tensor : reader.tensors()) {
    const bool converts = dtype && tensor.is_readable();
    items.push_back({&tensor, {tensor.name, converts ? *dtype : tensor.dtype, tensor.shape}});
  }
  plan.config = restore_config(config, options.dtype.value_or(main_dtype(items)));

  std::uint64_t in_shard = 0;
  plan.shards.emplace_back();
  for (UnpackWeightsPlan::Item& item : items) {
    const std::optional<std::uint64_t> bytes = tensor_bytes(item.spec.dtype, item.spec.shape);
    if (!bytes) throw Error(fmt::format("tensor {}: its shape overflows", quote_name(item.spec.name)));
    if (in_shard > 0 && *bytes > options.max_shard_bytes - std::min(in_shard, options.max_shard_bytes)) {
      plan.shards.emplace_back();
      in_shard = 0;
    }
    in_shard += *bytes;
    plan.tensor_bytes += *bytes;
    plan.shards.back().items.push_back(std::move(item));
  }
  for (std::size_t i = 0; i < plan.shards.size(); ++i) {
    auto& shard = plan.shards[i];
    shard.name = plan.shards.size() == 1 ? std::string(kWeightsName)
                                         : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, plan.shards.size());
    shard.bytes = plan_shard(shard).total_bytes();
  }
  if (plan.shards.size() > 1) plan.index = make_index(plan);
  plan.companions = list_companions(reader.dir());
  return plan;
}

void check_unpack_target(const WeightReader& reader, const std::string& out_dir, bool overwrite) {
  std::error_code ignored;
  if (fs::equivalent(out_dir, reader.dir(), ignored)) {
    throw Error(fmt::format("{}: is the checkpoint that is read; name another directory", out_dir));
  }
  if (!fs::exists(out_dir, ignored)) return;
  if (!fs::is_directory(out_dir, ignored)) throw Error(fmt::format("{}: exists, and is not a directory", out_dir));
  if (overwrite) return;
  for (const std::string& name : list_files(out_dir)) {
    if (is_weights_file(name)) {
      throw Error(fmt::format("{}: exists; --force replaces the model in this directory", join_path(out_dir, name)));
    }
  }
}

void unpack_weights(const WeightReader& reader, const UnpackWeightsPlan& plan, const std::string& out_dir,
                    const RunOptions& run) {
  check_unpack_target(reader, out_dir, run.overwrite);
  if (!run.overwrite) {
    std::error_code ignored;
    for (const std::string& name : plan.companions) {
      if (!fs::exists(join_path(out_dir, name), ignored)) continue;
      throw Error(fmt::format("{}: exists already; --force replaces it", join_path(out_dir, name)));
    }
  }
  reader.check_hashes(run.threads);

  // From here on every tensor is known to be the one that was written.
  Staging staging(out_dir);
  for (const auto& shard : plan.shards) write_shard(reader, shard, staging.path(shard.name), run);
  for (const std::string& name : plan.companions) copy_file(join_path(reader.dir(), name), staging.path(name));
  if (!plan.index.empty()) put_text(staging.path(kIndexName), plan.index);
  if (!plan.config.empty()) put_text(staging.path(kModelConfigName), plan.config);

  // The whole model is on disk.
  staging.install();
}

}  // namespace tq
