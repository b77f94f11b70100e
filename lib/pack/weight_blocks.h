// The work of pack_weights() on one block: read, encode or cast, write, check. Blocks of a tensor are independent.
#pragma once

#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "lib/aligned.h"
#include "lib/error.h"
#include "lib/io/staged_file.h"
#include "lib/pack/pack_seconds.h"
#include "lib/pack/padded_groups.h"
#include "lib/pack/weight_check.h"

namespace tq {

/// Source bytes of a block, padding included: half of a usual L2 cache, and large enough to read and write in one go.
inline constexpr std::int64_t kBlockBytes = std::int64_t{1} << 19;

/// Cuts the items that `wanted` chooses into blocks, in order. A block of a quantized tensor holds whole rows, or where a
/// row is longer than a block, part of one row.
std::vector<WeightBlock> cut_into_blocks(const WeightPlan& plan, const std::vector<bool>& wanted);

/// A value of the source that cannot be quantized or cast: the same run can never be finished.
struct RefusedValue : Error {
  using Error::Error;
};

/// Hash of a tensor's bytes in the source: XXH64, as 16 hex digits, of the XXH3 of its blocks, each 8 bytes, little-endian.
/// Blocks are hashed where they are encoded, and this puts them together in order.
class SourceHash {
 public:
  SourceHash();
  void add(std::uint64_t block_hash);
  std::string result() const;

 private:
  XXH64_state_t state_;
};
/// Reads the item's bytes again, block by block.
std::string hash_source(const Checkpoint& source, const WeightPlan& plan, std::size_t item);

/// What a worker holds between the two stages of a block.
struct BlockBuffers {
  AlignedVector<std::byte> source;   ///< as read
  AlignedVector<std::byte> padded;   ///< groups with their padding, where rows have any
  AlignedVector<std::uint8_t> codes;
  AlignedVector<float> norms;
  std::vector<float> values, stored;  ///< of a tensor that is cast: the source's, and what F16 makes of them
  std::vector<std::byte> kept;        ///< the same in F16
  WeightCheck check;
  std::span<const std::byte> data_written;   ///< into one of the above
  std::span<const std::byte> norms_written;
  std::uint64_t source_bytes = 0;
  std::uint64_t source_hash = 0;  ///< hash_bytes()
  PackSeconds seconds;            ///< a device's in `processors`
  F16Losses losses;
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

/// Does one block. Throws RefusedValue that names file, tensor and index for a value that cannot be quantized or cast.
class BlockWorker {
 public:
  /// `check_all`: every value is checked, not a sample (lib/pack/weight_check.h).
  BlockWorker(const Checkpoint& source, const WeightPlan& plan, const Backend& backend, ShardFiles& files, bool check_all);
  void run(const WeightBlock& block, BlockBuffers& buffers) const;
  /// Has the block's source fetched from the disk, while earlier blocks are at work.
  void expect(const WeightBlock& block) const;

 private:
  void write(const WeightPlace& place, std::uint64_t offset, std::span<const std::byte> data, BlockBuffers& b) const;
  void quantize(const WeightItem& item, const WeightBlock& block, BlockBuffers& b) const;
  void keep(const WeightItem& item, const WeightBlock& block, BlockBuffers& b) const;
  void cast_to_f16(const WeightItem& item, const WeightBlock& block, BlockBuffers& b) const;
  const std::byte* pad_groups(const WeightItem& item, const WeightBlock& block, BlockBuffers& b) const;
  void settle_padded(const WeightItem& item, const WeightBlock& block, const std::byte* groups, BlockBuffers& b) const;
  [[noreturn]] void refuse_group(const WeightItem& item, std::int64_t group, const std::byte* values) const;
  [[noreturn]] void refuse(const WeightItem& item, std::int64_t element, const std::string& what) const;

  const Checkpoint& source_;
  const WeightPlan& plan_;
  const Backend& backend_;
  ShardFiles& files_;
  bool check_all_;
  std::map<int, PaddedGroups> padded_;  ///< by bits; empty at effort 0
};

}  // namespace tq
