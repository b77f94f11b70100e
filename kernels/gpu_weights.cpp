#include "kernels/gpu_weights.h"

#include <algorithm>

namespace tq {
namespace {

constexpr std::int64_t kPieceBytes = std::int64_t{1} << 20;  // of a thread's read

/// The block's rows as they are stored, into pinned memory.
void read_block(const WeightReader& reader, const WeightTensor& tensor, const RowBlock& rows, int threads, std::byte* to) {
  const StoredRows row = stored_rows(tensor);
  const std::int64_t step = std::max<std::int64_t>(1, kPieceBytes / std::max<std::int64_t>(1, row.bytes));
  auto* norms = reinterpret_cast<float*>(to + row.norms_at(rows.count));
  parallel_for(threads, (rows.count + step - 1) / step, [&](std::int64_t piece) {
    const std::int64_t first = piece * step, count = std::min(step, rows.count - first);
    std::byte* out = to + first * row.bytes;
    if (tensor.quantized == nullptr) return reader.read_stored(tensor, rows.first + first, count, out);
    reader.read_coded(tensor, rows.first + first, count, reinterpret_cast<std::uint8_t*>(out), norms + first * row.groups);
  });
}

}  // namespace

std::byte* DeviceArena::take(std::int64_t bytes) {
  bytes = (bytes + 255) / 256 * 256;
  if (full_) return nullptr;
  if (used_ + bytes > kChunkBytes) {
    std::size_t free = 0, total = 0;
    check_cuda(cudaMemGetInfo(&free, &total), "asking for free memory");
    full_ = static_cast<std::int64_t>(free) < spare_ + kChunkBytes;
    if (full_) return nullptr;
    chunks_.push_back(std::make_unique<DeviceBuffer>());
    chunks_.back()->reserve(kChunkBytes);
    used_ = 0;
  }
  std::byte* place = chunks_.back()->as<std::byte>() + used_;
  used_ += bytes;
  return place;
}

LoadedBlock DeviceWeights::load(const WeightReader& reader, const WeightTensor& tensor, const RowBlock& rows, int threads) {
  const Key key{reader.id(), &tensor, rows.first, rows.count};
  if (const auto found = kept_.find(key); found != kept_.end()) return found->second;
  const StoredRows row = stored_rows(tensor);
  const std::int64_t bytes = row.total(rows.count);
  const std::size_t slot = next_;
  next_ = (next_ + 1) % kSlots;
  copied_[slot].wait();
  pinned_[slot].reserve(kBlockBytes + 256);
  read_block(reader, tensor, rows, threads, static_cast<std::byte*>(pinned_[slot].data()));
  read_bytes_ += static_cast<std::uint64_t>(bytes);

  std::byte* to = arena_.take(bytes);
  const bool stays = to != nullptr;
  if (!stays) {
    passing_[slot].reserve(kBlockBytes + 256);
    consumed_[slot].hold(stream_.get());
    to = passing_[slot].as<std::byte>();
  }
  check_cuda(cudaMemcpyAsync(to, pinned_[slot].data(), static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice, stream_.get()),
             "copying weights");
  copied_[slot].record(stream_.get());
  copied_[slot].hold(nullptr);
  LoadedBlock block{to, row.groups > 0 ? reinterpret_cast<const float*>(to + row.norms_at(rows.count)) : nullptr,
                    stays ? -1 : static_cast<int>(slot)};
  if (stays) kept_.emplace(key, block);
  return block;
}

void DeviceWeights::release(const LoadedBlock& block) {
  if (block.slot >= 0) consumed_[static_cast<std::size_t>(block.slot)].record(nullptr);
}

}  // namespace tq
