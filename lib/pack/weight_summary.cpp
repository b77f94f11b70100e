#include "lib/pack/weight_summary.h"

#include <map>
#include <utility>

namespace tq {
namespace {

void add_tensor(WeightKind& kind, const WeightReader::Tensor& tensor) {
  const auto values = static_cast<std::uint64_t>(tensor.values());
  kind.tensors += 1;
  kind.values += values;
  kind.stored_bytes += tensor.stored_bytes;
  kind.source_bytes += values * size_of(tensor.dtype);
}

}  // namespace

WeightSummary summarize_checkpoint(const WeightReader& reader) {
  WeightSummary summary;
  std::map<std::pair<int, int>, WeightKind> kinds;  // quantized ones sort first
  for (const WeightReader::Tensor& tensor : reader.tensors()) {
    const DType stored = tensor.kept == nullptr ? DType::kU8 : tensor.kept->info->dtype;
    WeightKind& kind = kinds[tensor.bits != 0 ? std::pair(0, tensor.bits) : std::pair(1, static_cast<int>(stored))];
    kind.bits = tensor.bits;
    kind.dtype = stored;
    add_tensor(kind, tensor);
    add_tensor(summary.total, tensor);
  }
  for (const auto& [key, kind] : kinds) summary.kinds.push_back(kind);
  for (const SafetensorsFile& shard : reader.checkpoint().shards()) summary.file_bytes += shard.file().size();
  return summary;
}

}  // namespace tq
