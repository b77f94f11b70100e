// What packing a KV dump will write, to the byte, before a byte is read: which tensor gets which scheme, the tables that
// travel, every name and offset. A dry run prints the plan; pack_kv() runs it.
#pragma once

#include <memory>
#include <vector>

#include "lib/codec.h"
#include "lib/io/kv_dump.h"

namespace tq {

/// What the user asks of K and V alike, or of each; the schemes follow from it and from the dump's dims.
struct KvSchemeOptions {
  int k_bits = 4;  ///< 1..8, the bit of the sketch included
  int v_bits = 4;  ///< 1..8
  RotationKind rotation = RotationKind::kRht2;
  std::uint32_t k_seed = kDefaultSeed;
  std::uint32_t v_seed = kDefaultSeed;
  NormMode norm = NormMode::kRaw;
  DType norm_dtype = DType::kF32;
  bool qjl_keys = false;  ///< K: one bit less for the codes, one for the sketch of the residual (k_bits >= 2)

  /// Throw UsageError for bits that leave no code.
  Scheme key_scheme(int dim) const;
  Scheme value_scheme(int dim) const;
};


/// One tensor of the dump on its way into the file.
struct KvPlanItem {
  std::string name;                    ///< "k.0"
  const KvTensor* source = nullptr;    ///< points into the dump
  std::shared_ptr<const Codec> codec;  ///< shared by the tensors with the same scheme
  std::size_t codes = 0;               ///< index into KvPlan::tensors
  std::size_t norms = 0;
  std::size_t signs = 0;               ///< of a scheme with QJL
  std::size_t residual_norms = 0;

  std::int64_t rows() const { return source->heads * source->tokens; }
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
  std::uint64_t input_bytes = 0;
  std::uint64_t total_bytes = 0;  ///< of the whole file, header included
};

/// The dump must outlive the plan.
KvPlan plan_kv(const KvDump& dump, const KvSchemeOptions& options);

}  // namespace tq
