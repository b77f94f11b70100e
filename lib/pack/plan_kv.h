// What packing a KV dump will write, to the byte, before a byte is read: which tensor gets which scheme, the tables that
// travel, every name and offset. A dry run prints the plan; pack_kv() runs it.
#pragma once

#include <memory>
#include <vector>

#include "lib/codec.h"
#include "lib/io/kv_dump.h"

namespace tq {

struct KvPackOptions {
  int k_bits = 4;  ///< 1..8
  int v_bits = 4;  ///< 1..8
  RotationKind rotation = RotationKind::kRht2;
  std::uint32_t k_seed = kDefaultSeed;
  std::uint32_t v_seed = kDefaultSeed;
};

/// One tensor of the dump on its way into the file.
struct KvPlanItem {
  std::string name;                    ///< "k.0"
  const KvTensor* source = nullptr;    ///< points into the dump
  std::shared_ptr<const Codec> codec;  ///< shared by the tensors with the same scheme
  std::size_t codes = 0;               ///< index into KvPlan::tensors
  std::size_t norms = 0;

  std::int64_t rows() const { return source->heads * source->tokens; }
};

/// A table that travels in the file: a codebook's levels, or a rotation's matrix.
struct KvPlanTable {
  std::size_t tensor = 0;  ///< index into KvPlan::tensors
  std::vector<float> values;
};

struct KvPlan {
  std::vector<KvPlanItem> items;
  std::vector<KvPlanTable> tables;
  std::vector<TensorSpec> tensors;
  MetadataList metadata;  ///< hashes are 16 zeros until the data is known
  std::uint64_t input_bytes = 0;
  std::uint64_t total_bytes = 0;  ///< of the whole file, header included
};

/// The dump must outlive the plan.
KvPlan plan_kv(const KvDump& dump, const KvPackOptions& options);

}  // namespace tq
