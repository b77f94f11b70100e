// A model's weights as they are published: a directory with model.safetensors, or with model.safetensors.index.json and
// the shards that it names. Opening proves every header sound and the index true; bytes are read later, by offset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "lib/io/safetensors.h"

namespace tq {

inline constexpr std::string_view kWeightsName = "model.safetensors";
inline constexpr std::string_view kIndexName = "model.safetensors.index.json";
inline constexpr std::string_view kModelConfigName = "config.json";

/// "name" or "org/name", of letters, digits, '-', '_' and '.', and no part that is dots alone.
bool is_hub_id(const std::string& text);

/// The directory of a model: `model` itself if it is one, else a Hugging Face hub id ("org/name") in the local cache:
/// $HF_HUB_CACHE, else $HUGGINGFACE_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub; there the snapshot that refs/main names, else the only
/// one. Error: neither (it says how to fetch the model), a file, or several snapshots and no refs/main.
std::string find_model_dir(const std::string& model);

/// The weights of a directory. Move-only; reading is thread-safe.
class Checkpoint {
 public:
  /// Opens model.safetensors if it is there, else what the index names. Error, with file and tensor: neither file is there;
  /// a header is unsound (see SafetensorsFile::open); the index is not {"weight_map": {tensor: file}} in JSON with each key
  /// once; it names a file that is missing, or with a path in its name, or a tensor that is not in that file; two shards
  /// have the same tensor. A tensor that a shard has and the index leaves out is taken: loaders do so.
  static Checkpoint open(const std::string& dir);

  /// One safetensors file of any name. Error as SafetensorsFile::open().
  static Checkpoint open_file(const std::string& path);

  /// The directory, or that file.
  const std::string& dir() const { return dir_; }

  /// In sorted order of the file name.
  const std::vector<SafetensorsFile>& shards() const { return shards_; }

  struct Entry {
    const TensorInfo* info;  ///< points into shards()[shard]
    int shard;
  };

  /// Shard by shard, in the order of each header.
  const std::vector<Entry>& tensors() const { return tensors_; }

  /// nullptr if there is none of that name.
  const Entry* find(std::string_view name) const;

  /// The tensor of that name, or an Error that names directory and tensor.
  const Entry& at(std::string_view name) const;

  /// Fills `out` with the bytes of the tensor from `byte_offset` (within it) on. Error as SafetensorsFile::read().
  void read(const Entry& entry, std::uint64_t byte_offset, std::span<std::byte> out) const;

 private:
  explicit Checkpoint(std::string dir) : dir_(std::move(dir)) {}
  void add_shard(const std::string& path);

  std::string dir_;
  std::vector<SafetensorsFile> shards_;
  std::vector<Entry> tensors_;
  std::unordered_map<std::string_view, std::size_t> index_;  // name (owned by its shard) -> position
};

/// Reads a whole text file, such as config.json. Error as InputFile::open(), and for more than `most` bytes.
std::string read_text_file(const std::string& path, std::uint64_t most = kMaxSafetensorsHeader);

/// True for a plain file name: not empty, no '/', no NUL, neither "." nor "..".
bool is_plain_name(std::string_view name);

}  // namespace tq
