// The way back: a native TQ3 checkpoint becomes an ordinary one, which any loader of safetensors reads.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/pack/pack_kv.h"
#include "lib/pack/weight_reader.h"

namespace tq {

struct UnpackWeightsOptions {
  /// Of all tensors of 16- and 32-bit floats. Nothing: each has its own again, as tq_config.json tells it; where that does
  /// not (the published converter), the type in config.json, else BF16.
  std::optional<DType> dtype;
  std::uint64_t max_shard_bytes = std::uint64_t{5} << 30;  ///< tensor bytes of a file; one tensor may exceed it
};

/// What will be written, to the byte, before a tensor is read.
struct UnpackWeightsPlan {
  struct Item {
    const WeightReader::Tensor* source;
    TensorSpec spec;
  };
  struct Shard {
    std::string name;  ///< model.safetensors, or model-00001-of-00003.safetensors
    std::vector<Item> items;
    std::uint64_t bytes = 0;  ///< of the whole file
  };
  std::vector<Shard> shards;
  std::string index;                    ///< text of model.safetensors.index.json; empty for one shard
  std::string config;                   ///< text of config.json, the quantization taken out; empty if there is none
  std::vector<std::string> companions;  ///< files that are copied as they are
  std::uint64_t tensor_bytes = 0;

  std::uint64_t file_bytes() const;  ///< of all shards
};

/// Error: the directory is no native TQ3 checkpoint; config.json is no JSON object. The reader must outlive the plan.
UnpackWeightsPlan plan_unpacked_weights(const WeightReader& reader, const UnpackWeightsOptions& options);

/// Error unless a checkpoint can be written to `out_dir`: it is not there, or holds no file of a model, or `overwrite`;
/// never the directory that is read.
void check_unpack_target(const WeightReader& reader, const std::string& out_dir, bool overwrite);

/// Proves the hashes, where there are some, writes the model into a hidden directory `.tq-unpacking-*` within out_dir, and when all
/// of it is on disk gives the files their places, config.json last: until then no loader takes out_dir for a model. With overwrite
/// the model that is there stays until that moment, and then goes; both need room. Progress gets bytes of the output. After an
/// Error what was written is removed; after a kill the hidden directory stays, and can be deleted. Errors: those of reading; a value that the type cannot hold, named
/// by tensor and index.
void unpack_weights(const WeightReader& reader, const UnpackWeightsPlan& plan, const std::string& out_dir,
                    const RunOptions& run);

}  // namespace tq
