// Weights on a device: blocks of rows as they are stored, read by threads into pinned buffers and copied beside the products of the
// blocks before. Blocks stay on the device while there is room, so that a second pass reads none of them again; what has no room
// comes through once more in each pass. For host code.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "kernels/forward_plan.h"
#include "kernels/gpu_memory.h"
#include "kernels/gpu_stream.h"
#include "lib/pack/weight_reader.h"

namespace tq {

/// Memory that is handed out in order and never taken back.
class DeviceArena {
 public:
  /// `spare`: bytes of the device that are left alone.
  explicit DeviceArena(std::int64_t spare) : spare_(spare) {}
  /// At a multiple of 256; nullptr where there is no room.
  std::byte* take(std::int64_t bytes);

 private:
  static constexpr std::int64_t kChunkBytes = std::int64_t{256} << 20;
  std::int64_t spare_;
  std::vector<std::unique_ptr<DeviceBuffer>> chunks_;
  std::int64_t used_ = kChunkBytes;  ///< of the last chunk
  bool full_ = false;
};

/// A block on the device.
struct LoadedBlock {
  const std::byte* data = nullptr;  ///< values as stored, or codes
  const float* norms = nullptr;     ///< of a quantized tensor
  int slot = -1;                    ///< of a buffer that is used again; -1: the block stays
};

class DeviceWeights {
 public:
  /// For the current device.
  explicit DeviceWeights(std::int64_t spare) : arena_(spare) {}

  /// What the thread's stream does next may read the block, until release(). Error: those of reading.
  LoadedBlock load(const WeightReader& reader, const WeightTensor& tensor, const RowBlock& rows, int threads);
  /// What reads the block has been started.
  void release(const LoadedBlock& block);

  std::uint64_t read_bytes() const { return read_bytes_; }  ///< from files, so far

 private:
  static constexpr std::size_t kSlots = 3;
  using Key = std::tuple<std::uint64_t, const WeightTensor*, std::int64_t, std::int64_t>;

  DeviceArena arena_;
  DeviceStream stream_;
  std::map<Key, LoadedBlock> kept_;
  std::array<PinnedBuffer, kSlots> pinned_;
  std::array<DeviceBuffer, kSlots> passing_;   ///< for blocks that do not stay
  std::array<DeviceEvent, kSlots> copied_;     ///< pinned_ has been read
  std::array<DeviceEvent, kSlots> consumed_;   ///< passing_ has been read
  std::size_t next_ = 0;
  std::uint64_t read_bytes_ = 0;
};

}  // namespace tq
