// What packing a KV dump will write, to the byte, before a byte is read: which tensor gets which scheme, the tables that
// travel, every name and offset. A dry run prints the plan; pack_kv() runs it.
#pragma once

#include <memory>
#include <vector>

#include "lib/cache/cache_streams.h"
#include "lib/cache/kv_options.h"
#include "lib/io/kv_dump.h"

namespace tq {

/// Heads of a tensor of the dump that share a scheme, on their way into the file: all of them, or one.
struct KvPlanItem {
  std::string name;                         ///< "k.0", "k.0.h3"
  const KvTensor* source = nullptr;         ///< points into the dump
  std::int64_t first_head = 0;
  std::int64_t heads = 0;
  std::shared_ptr<const CacheCodec> codec;  ///< shared by the items with the same scheme
  std::vector<StreamSpec> specs;            ///< of one head
  std::vector<std::size_t> streams;         ///< indices into KvPlan::tensors, in the order of specs

  std::int64_t rows() const { return heads * source->tokens; }
};

/// A table that travels in the file: a codebook's levels, a rotation's matrix, a sketch's.
struct KvPlanTable {
  std::size_t tensor = 0;  ///< index into KvPlan::tensors
  std::vector<float> values;
};

struct KvPlan {
  std::vector<KvPlanItem> items;
  std::vector<KvPlanTable> tables;
  std::vector<TensorSpec> tensors;
  MetadataList metadata;  ///< hashes are 16 zeros until the data is known
  double k_bits = 0, v_bits = 0;  ///< of a value, over all of K and of V: CacheScheme::value_bits()
  std::uint64_t input_bytes = 0;
  std::uint64_t total_bytes = 0;  ///< of the whole file, header included
};

/// The dump must outlive the plan. Throws Error where the options do not fit the dump.
KvPlan plan_kv(const KvDump& dump, const KvSchemeOptions& options);

}  // namespace tq
