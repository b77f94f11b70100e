// The work of pack_weights() on one block: read, encode or cast, write, check. Blocks of a tensor are independent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "lib/io/staged_file.h"
#include "lib/pack/weight_check.h"

namespace tq {

/// Source bytes of a block, padding included: half of a usual L2 cache, and large enough to read and write in one go.
inline constexpr std::int64_t kBlockBytes = std::int64_t{1} << 19;

/// Cuts the items that `wanted` chooses into blocks, in order. A block of a quantized tensor holds whole rows, or where a
/// row is longer than a block, part of one row.
std::vector<WeightBlock> cut_into_blocks(const WeightPlan& plan, const std::vector<bool>& wanted);

/// What a worker holds between the two stages of a block.
struct BlockBuffers {
  std::vector<std::byte> source;     ///< as read
  std::vector<std::byte> padded;     ///< groups with their padding, where rows have any
  std::vector<std::uint8_t> codes;
  std::vector<float> norms;
  std::vector<std::byte> kept;       ///< a kept tensor after its cast
  WeightCheck check;
  std::span<const std::byte> data_written;   ///< into one of the above
  std::span<const std::byte> norms_written;
  std::uint64_t source_bytes = 0;
};

/// The output's open files. Thread-safe.
class ShardFiles {
 public:
  ShardFiles(std::string dir, const WeightPlan& plan) : dir_(std::move(dir)), plan_(plan) {}
  StagedFile& open(int shard);
  /// Closes the files before `shard`: nothing more is written to them.
  void close_before(int shard);

 private:
  std::string dir_;
  const WeightPlan& plan_;
  std::mutex mutex_;
  std::map<int, StagedFile> files_;
};

/// Does one block. Throws Error that names file, tensor and index for a value that cannot be quantized or cast.
class BlockWorker {
 public:
  BlockWorker(const Checkpoint& source, const WeightPlan& plan, const Backend& backend, ShardFiles& files)
      : source_(source), plan_(plan), backend_(backend), files_(files) {}
  void run(const WeightBlock& block, BlockBuffers& buffers) const;

 private:
  void quantize(const WeightItem& item, const WeightBlock& block, BlockBuffers& b) const;
  void keep(const WeightItem& item, const WeightBlock& block, BlockBuffers& b) const;
  const std::byte* read_groups(const WeightItem& item, const WeightBlock& block, BlockBuffers& b) const;
  [[noreturn]] void refuse_group(const WeightItem& item, std::int64_t group, const std::byte* values) const;
  [[noreturn]] void refuse(const WeightItem& item, std::int64_t element, const std::string& what) const;

  const Checkpoint& source_;
  const WeightPlan& plan_;
  const Backend& backend_;
  ShardFiles& files_;
};

}  // namespace tq
