// How the kernels are launched: block, grid and shared memory as plain functions of what is coded, so that they are tested without a
// GPU (tests/test_gpu_launch.cpp). No CUDA type is named here.
#pragma once

#include <algorithm>
#include <cstdint>

#include "lib/dtype.h"

namespace tq::cuda {

/// Rows that one launch takes at most: row numbers of a launch fit an int, with room for a block.
inline constexpr std::int64_t kMaxLaunchRows = std::int64_t{1} << 30;

/// Threads of a block of the plain kernels, one row each.
inline constexpr int kRowsPerBlock = 128;

/// Elements of a tile (gpu_tile.h, gpu_runs.h), and warps of a block in the two fast kernels.
inline constexpr int kTileElements = 1024;
inline constexpr int kEncodeWarps = 4;
inline constexpr int kDecodeWarps = 8;
/// Copies of decode's table of pairs of levels: no two lanes of an access meet in a bank.
inline constexpr int kPairCopies = 16;

/// Bytes of a stage: a tile of rows.
constexpr int stage_bytes(DType dtype) { return kTileElements * (dtype == DType::kF32 ? 4 : 2); }

/// Floats of decode's tile in shared memory: rows are 8 words apart beyond their length.
constexpr int tile_floats(int dim) { return kTileElements / dim * (dim + 8); }

/// A launch of a fast kernel. Blocks stay and take tile after tile, so there are at most as many as run at once.
struct TileLaunch {
  int threads;       ///< of a block
  int shared_bytes;  ///< dynamic, of a block
  std::int64_t tiles;
  int warps;  ///< of a block: tiles it works on at a time

  /// Blocks of the grid where `resident` run at once, 1 or more.
  constexpr unsigned blocks(int resident) const {
    return static_cast<unsigned>(std::min<std::int64_t>((tiles + warps - 1) / warps, resident));
  }
};

/// count: rows, 1..kMaxLaunchRows; dim: 64, 128 or 256; bits: 2 to 4.
constexpr TileLaunch encode_tile_launch(int dim, DType dtype, std::int64_t count) {
  const int rows = kTileElements / dim;
  return {32 * kEncodeWarps, 2 * kEncodeWarps * stage_bytes(dtype), (count + rows - 1) / rows, kEncodeWarps};
}

constexpr TileLaunch decode_tile_launch(int dim, int bits, std::int64_t count) {
  const int rows = kTileElements / dim;
  return {32 * kDecodeWarps, 8 * (kPairCopies << (2 * bits)) + 4 * kDecodeWarps * tile_floats(dim), (count + rows - 1) / rows,
          kDecodeWarps};
}

/// The fast kernels with a row a lane: elements of a row, rows of a tile, and warps of a block.
inline constexpr int kLaneRowDim = 96;
inline constexpr int kLaneRows = 32;
inline constexpr int kLaneRowWarps = 4;

/// A stage holds a tile of rows, a warp's: encode reads it, decode fills it. Rows are 16 bytes apart beyond their length, so lanes that
/// take 16 bytes each of their rows meet in no bank.
constexpr TileLaunch lane_row_launch(DType dtype, std::int64_t count) {
  const int row_bytes = kLaneRowDim * (dtype == DType::kF32 ? 4 : 2);
  return {32 * kLaneRowWarps, kLaneRowWarps * kLaneRows * (row_bytes + 16), (count + kLaneRows - 1) / kLaneRows, kLaneRowWarps};
}

/// Blocks of a plain kernel.
constexpr unsigned plain_blocks(std::int64_t count) {
  return static_cast<unsigned>((count + kRowsPerBlock - 1) / kRowsPerBlock);
}

}  // namespace tq::cuda
