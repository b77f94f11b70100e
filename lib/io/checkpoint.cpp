#include "lib/io/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "lib/error.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

using WeightMap = std::map<std::string, std::string>;  // tensor -> file

std::string join_path(const std::string& dir, std::string_view name) { return (fs::path(dir) / name).string(); }

bool is_there(const std::string& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

/// The value of an environment variable that is set and not empty.
std::optional<std::string> read_environment(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

/// The one folder in which the published hub library looks, too.
std::optional<fs::path> find_hub_cache() {
  if (const auto cache = read_environment("HF_HUB_CACHE")) return *cache;
  if (const auto cache = read_environment("HUGGINGFACE_HUB_CACHE")) return *cache;
  if (const auto home = read_environment("HF_HOME")) return fs::path(*home) / "hub";
  if (const auto cache = read_environment("XDG_CACHE_HOME")) return fs::path(*cache) / "huggingface" / "hub";
  if (const auto home = read_environment("HOME")) return fs::path(*home) / ".cache" / "huggingface" / "hub";
  return std::nullopt;
}

/// The snapshot of a repository in the cache that stands for the model.
std::string find_snapshot(const std::string& id, const fs::path& repository) {
  const fs::path snapshots = repository / "snapshots";
  if (const fs::path ref = repository / "refs" / "main"; is_there(ref)) {
    std::string revision = read_text_file(ref, 4096);
    while (!revision.empty() && (revision.back() == '\n' || revision.back() == ' ')) revision.pop_back();
    if (is_plain_name(revision) && is_folder(snapshots / revision)) return snapshots / revision;
    throw Error(fmt::format("{}: the hub cache's refs/main names the snapshot {}, which is not in {}; fetch it with 'hf download {}', or "
                            "name the directory of another", id, quote_name(revision), snapshots.string(), id));
  }
  std::vector<fs::path> found;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(snapshots, ignored)) {
    if (is_folder(entry.path())) found.push_back(entry.path());
  }
  if (found.size() == 1) return found.front();
  if (found.empty()) {
    throw Error(fmt::format("{}: the hub cache has no snapshot of it in {}; fetch it with 'hf download {}'", id,
                            snapshots.string(), id));
  }
  throw Error(fmt::format("{}: the hub cache has {} snapshots in {} and no refs/main that chooses one; name the directory",
                          id, found.size(), snapshots.string()));
}

/// The "weight_map" of an index.
class IndexReader {
 public:
  explicit IndexReader(const std::string& path) : path_(path) {}

  WeightMap read() {
    const std::string text = read_text_file(path_);
    nlohmann::json json;
    try {
      json = nlohmann::json::parse(text, [this](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
        if (event == nlohmann::json::parse_event_t::key) note_key(depth, value.get_ref<const std::string&>());
        return true;
      });
    } catch (const nlohmann::json::exception&) {
      fail("is not valid JSON in UTF-8");
    }
    if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
      fail("has no \"weight_map\": {tensor: file}");
    }
    WeightMap map;
    for (const auto& [tensor, file] : json["weight_map"].items()) map.emplace(tensor, check_file(tensor, file));
    return map;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(fmt::format("{}: {}; get the file again", path_, what));
  }

  void note_key(int depth, const std::string& key) {
    if (depth > 2) return;
    if (depth == 1) {
      top_ = key;
      keys_.clear();
      if (!top_keys_.insert(key).second) fail(fmt::format("{} occurs twice", quote_name(key)));
    } else if (top_ == "weight_map" && !keys_.insert(key).second) {
      fail(fmt::format("{} occurs twice in weight_map", quote_name(key)));
    }
  }

  std::string check_file(const std::string& tensor, const nlohmann::json& file) const {
    if (!file.is_string()) fail(fmt::format("the file of {} is not a string", quote_name(tensor)));
    const auto& name = file.get_ref<const std::string&>();
    if (!is_plain_name(name)) {
      fail(fmt::format("{} is said to be in {}, which is no plain file name", quote_name(tensor), quote_name(name)));
    }
    return name;
  }

  std::string path_;
  std::string top_;
  std::set<std::string> top_keys_;
  std::set<std::string> keys_;
};

/// "fetch it with 'hf download org/name'" for a snapshot in a hub cache, which may be there in part; else `otherwise`.
std::string how_to_get(const std::string& dir, const std::string& otherwise) {
  constexpr std::string_view kPrefix = "models--";
  const fs::path snapshots = fs::absolute(dir).lexically_normal().parent_path();
  std::string id = snapshots.parent_path().filename().string();
  if (snapshots.filename() != "snapshots" || !id.starts_with(kPrefix)) return otherwise;
  id.erase(0, kPrefix.size());
  if (const std::size_t dashes = id.find("--"); dashes != std::string::npos) id.replace(dashes, 2, "/");
  return fmt::format("the hub cache has the model in part: fetch the rest with 'hf download {}'", id);
}

[[noreturn]] void refuse_without_weights(const std::string& dir) {
  if (!is_folder(dir)) throw Error(fmt::format("{}: is not a directory; name the directory of a model", dir));
  throw Error(fmt::format("{}: has neither {} nor {}; {}", dir, kWeightsName, kIndexName,
                          how_to_get(dir, "name the directory of a model in safetensors format")));
}

}  // namespace

bool is_plain_name(std::string_view name) {
  return !name.empty() && name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos &&
         name != "." && name != "..";
}

std::string read_text_file(const std::string& path, std::uint64_t most) {
  const InputFile file = InputFile::open(path);
  if (file.size() > most) {
    throw Error(fmt::format("{}: has {} bytes, and {} are the limit for such a file", path, file.size(), most));
  }
  std::string text(file.size(), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

bool is_hub_id(const std::string& text) {
  constexpr std::string_view kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
  const std::size_t slash = text.find('/');
  const auto is_part = [&](std::string_view part) {
    return part.find_first_not_of(kPlain) == std::string_view::npos && part.find_first_not_of('.') != std::string_view::npos;
  };
  if (slash == std::string::npos) return is_part(text);
  return is_part(std::string_view(text).substr(0, slash)) && is_part(std::string_view(text).substr(slash + 1));
}

std::string find_model_dir(const std::string& model) {
  if (is_folder(model)) return model;
  if (is_there(model)) throw Error(fmt::format("{}: is a file; name the directory of the model", model));
  if (!is_hub_id(model)) throw Error(fmt::format("{}: there is no such directory", model));
  const std::optional<fs::path> cache = find_hub_cache();
  std::string folder = "models--" + model;
  if (const std::size_t slash = folder.find('/'); slash != std::string::npos) folder.replace(slash, 1, "--");
  if (cache && is_folder(*cache / folder)) return find_snapshot(model, *cache / folder);
  throw Error(fmt::format("{}: is no directory, and as a hub id it is not in the cache {}; fetch it with 'hf download {}'",
                          model, cache ? cache->string() : "(set HF_HUB_CACHE)", model));
}

void Checkpoint::add_shard(const std::string& path) {
  const int shard = static_cast<int>(shards_.size());
  const SafetensorsFile& file = shards_.emplace_back(SafetensorsFile::open(path));
  for (const TensorInfo& info : file.tensors()) {
    const auto [found, is_new] = index_.emplace(info.name, tensors_.size());
    if (!is_new) {
      const Entry& other = tensors_[found->second];
      throw Error(fmt::format("{}: tensor {} is in {} as well; a tensor must be in one shard, so get the checkpoint again",
                              file.file().path(), quote_name(info.name),
                              shards_[static_cast<std::size_t>(other.shard)].file().path()));
    }
    tensors_.push_back({&info, shard});
  }
}

Checkpoint Checkpoint::open(const std::string& dir) {
  Checkpoint result(dir);
  if (is_there(join_path(dir, kWeightsName))) {
    result.add_shard(join_path(dir, kWeightsName));
    return result;
  }
  const std::string index_path = join_path(dir, kIndexName);
  if (!is_there(index_path)) refuse_without_weights(dir);
  const WeightMap map = IndexReader(index_path).read();
  std::map<std::string, std::string> first_tensor;  // file -> a tensor that is said to be in it
  for (const auto& [tensor, file] : map) first_tensor.emplace(file, tensor);
  result.shards_.reserve(first_tensor.size());  // entries point into shards: they must not move
  for (const auto& [file, tensor] : first_tensor) {
    if (!is_there(join_path(dir, file))) {
      throw Error(fmt::format("{}: says that {} is in {}, and that file is missing; {}", index_path,
                              quote_name(tensor), quote_name(file), how_to_get(dir, "get it again")));
    }
    result.add_shard(join_path(dir, file));
  }
  for (const auto& [tensor, file] : map) {
    const Entry* entry = result.find(tensor);
    const std::string actual =
        entry == nullptr ? ""
                         : fs::path(result.shards_[static_cast<std::size_t>(entry->shard)].file().path()).filename().string();
    if (actual == file) continue;
    throw Error(fmt::format("{}: says that tensor {} is in {}, and it is {}; get the checkpoint again", index_path,
                            quote_name(tensor), quote_name(file),
                            entry == nullptr ? "in no shard" : "in " + quote_name(actual)));
  }
  return result;
}

Checkpoint Checkpoint::open_file(const std::string& path) {
  Checkpoint result(path);
  result.add_shard(path);
  return result;
}

const Checkpoint::Entry* Checkpoint::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const Checkpoint::Entry& Checkpoint::at(std::string_view name) const {
  if (const Entry* entry = find(name)) return *entry;
  throw Error(fmt::format("{}: has no tensor {}", dir_, quote_name(name)));
}

void Checkpoint::read(const Entry& entry, std::uint64_t byte_offset, std::span<std::byte> out) const {
  shards_[static_cast<std::size_t>(entry.shard)].read(*entry.info, byte_offset, out);
}

}  // namespace tq
