// How large a checkpoint is, and what its bits are spent on. Numbers from headers alone: no tensor is read.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/pack/weight_reader.h"

namespace tq {

/// Tensors that are stored alike.
struct WeightKind {
  int bits = 0;     ///< of a code; 0: kept
  DType dtype{};    ///< stored type of kept tensors; U8 for quantized ones
  std::int64_t tensors = 0;
  std::uint64_t values = 0;        ///< of the model, without padding
  std::uint64_t stored_bytes = 0;  ///< codes, norms and padding; or values
  std::uint64_t source_bytes = 0;  ///< of the same tensors in the model's types

  double bits_per_weight() const { return values == 0 ? 0 : 8.0 * static_cast<double>(stored_bytes) / static_cast<double>(values); }
};

struct WeightSummary {
  std::vector<WeightKind> kinds;  ///< quantized ones first, by bits; then by type
  WeightKind total;
  std::uint64_t file_bytes = 0;   ///< of all shards, headers included

  /// Bytes of the model's tensors over those of the files.
  double compression() const { return file_bytes == 0 ? 0 : static_cast<double>(total.source_bytes) / static_cast<double>(file_bytes); }
};

WeightSummary summarize_checkpoint(const WeightReader& reader);

}  // namespace tq
