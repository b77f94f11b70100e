// What packing a checkpoint will write, to the byte, before a byte of a tensor is read: which tensor is quantized at how
// many bits, which is kept, in which file and at which offset. docs/weights.md has the rules.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lib/codec.h"
#include "lib/io/checkpoint.h"
#include "lib/io/tq3_checkpoint.h"

namespace tq {

/// What the user asks for.
struct WeightOptions {
  int bits = 3;          ///< 2..4
  int group_size = 128;  ///< 64, 128 or 256
  int sensitive_bits = 0;                       ///< 2..4: bits of a tensor whose name contains a pattern; 0: as the others
  std::vector<std::string> sensitive_patterns = {};  ///< empty with sensitive_bits: those of the published converter
  std::vector<std::string> skip = {};           ///< regular expressions; a tensor whose name matches one is kept
  bool skip_router = false;                     ///< keep the routers of mixtures of experts
  bool keep_f16 = false;                        ///< tensors that are kept become F16; else they keep their type
  std::uint64_t max_shard_bytes = std::uint64_t{5} << 30;  ///< tensor bytes of an output file; one tensor may exceed it
  int effort = 0;                               ///< 0: the nearest level
  int parts = 1;  ///< the source's shards are cut into so many runs; a new output file begins with each
};

/// Throw UsageError for options that can never be met.
void check_weight_options(const WeightOptions& options);

/// The patterns in use: those given, else "o_proj" and "down_proj".
std::vector<std::string> sensitive_patterns_of(const WeightOptions& options);

/// The published rule: a matrix named "....weight", or a stack of experts, that is large and neither embedding nor head nor
/// norm, is quantized; --skip and --skip-router come on top.
bool is_linear_weight(const std::string& name, const std::vector<std::int64_t>& shape);

/// Where a tensor goes.
struct WeightPlace {
  int shard = -1;            ///< index into WeightPlan::shards
  std::uint64_t offset = 0;  ///< of its first byte in that file
};

/// One tensor of the source.
struct WeightItem {
  const Checkpoint::Entry* source = nullptr;  ///< points into the checkpoint
  int part = 1;                               ///< 1..parts
  std::shared_ptr<const Codec> codec;         ///< shared by tensors of equal bits; nullptr: the tensor is kept
  std::int64_t rows = 0;                      ///< of a quantized tensor: product of all dimensions but the last
  std::int64_t groups = 0;                    ///< of a quantized tensor: groups a row
  DType stored = DType::kU8;                  ///< type of a tensor that is kept
  WeightPlace data;                           ///< the codes, or the tensor as it is kept
  WeightPlace norms;

  const std::string& name() const { return source->info->name; }
  bool is_quantized() const { return codec != nullptr; }
  int bits() const { return codec ? codec->scheme().bits : 0; }
  std::int64_t in_dim() const { return source->info->shape.back(); }
  std::int64_t lines() const { return rows * groups; }  ///< groups in all
  std::uint64_t data_bytes() const;
  std::uint64_t norms_bytes() const;
  std::uint64_t bytes() const { return data_bytes() + norms_bytes(); }
  /// Bits that are stored for a value of the source, norms and padding included; 0 for an empty tensor.
  double bits_per_weight() const;
};

/// A file of the output.
struct WeightShard {
  std::string name;           ///< "model-00001-of-00003.safetensors"
  int part = 1;
  std::string header;         ///< length and JSON text, as they begin the file
  std::uint64_t bytes = 0;    ///< of the whole file
};

struct WeightPlan {
  WeightOptions options;
  std::vector<WeightItem> items;    ///< in the order of the published converter: files, then names, sorted
  std::vector<WeightShard> shards;
  std::vector<std::pair<std::string, int>> weight_map;  ///< tensor -> index of its shard, in the order of the items
  std::uint64_t input_bytes = 0;    ///< of the source's tensors
  std::uint64_t tensor_bytes = 0;   ///< of the output's tensors: "total_size" of the index
  std::uint64_t shard_bytes = 0;    ///< of the output's shards, headers included

  /// Bytes of the source's tensors, and of the output's, of one part.
  std::uint64_t part_input_bytes(int part) const;
  std::uint64_t part_tensor_bytes(int part) const;
};

/// Error, which names file and tensor: the source is a native TQ3 checkpoint already; a tensor that would be quantized is
/// neither F32 nor F16 nor BF16; one that would become F16 is of a type that tq does not convert; a name is taken.
/// The checkpoint must outlive the plan.
WeightPlan plan_weights(const Checkpoint& source, const WeightOptions& options);

}  // namespace tq
