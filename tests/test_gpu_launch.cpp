// How the GPU's kernels are launched, without a GPU: grids that reach every row and no launch that a device would refuse.
#include <doctest/doctest.h>

#include <set>
#include <vector>

#include "kernels/gpu_launch.h"
#include "kernels/hadamard12.h"
#include "lib/rotation.h"

namespace tq::cuda {
namespace {

constexpr int kDims[] = {64, 128, 256};
constexpr int kBits[] = {2, 3, 4};
constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBf16};
/// What devices from compute capability 8.0 grant a block: 99 KB on 8.6, 8.9 and 12.0, of which a kernel's own arrays take 22 KB at most.
constexpr int kMostSharedBytes = 101376;
constexpr int kOwnSharedBytes = 22 * 1024;

/// Rows of a tile, and every count near which something begins anew.
std::set<std::int64_t> counts_of(int rows) {
  return {1, rows - 1, rows, rows + 1, 4 * rows, 4 * rows + 1, 1000 * rows - 1, kMaxLaunchRows - 1, kMaxLaunchRows};
}

void check_tiles(const TileLaunch& launch, int rows, std::int64_t count) {
  CHECK(launch.tiles * rows >= count);
  CHECK((launch.tiles - 1) * rows < count);
  CHECK(launch.threads == 32 * launch.warps);
  CHECK(launch.threads <= 1024);
  CHECK(launch.shared_bytes % 16 == 0);
  for (const int resident : {1, 132, 528, 1 << 20}) {
    const std::int64_t blocks = launch.blocks(resident);
    CHECK(blocks >= 1);
    CHECK(blocks <= resident);
    // No block without a tile, and no tile left out for want of blocks that there is room for.
    CHECK((blocks - 1) * launch.warps < launch.tiles);
    CHECK((blocks == resident || blocks * launch.warps >= launch.tiles));
    // Tile numbers, two strides beyond the last, fit an int, as the kernels count them.
    CHECK(launch.tiles + 2 * blocks * launch.warps < (std::int64_t{1} << 31));
  }
}

TEST_CASE("the fast kernels' grids reach every row, in blocks that every device takes") {
  for (const int dim : kDims) {
    const int rows = kTileElements / dim;
    CHECK(rows * dim == kTileElements);
    for (const std::int64_t count : counts_of(rows)) {
      CAPTURE(dim);
      CAPTURE(count);
      for (const DType dtype : kDTypes) {
        const TileLaunch encode = encode_tile_launch(dim, dtype, count);
        check_tiles(encode, rows, count);
        CHECK(encode.shared_bytes == 2 * kEncodeWarps * rows * dim * static_cast<int>(size_of(dtype)));
        CHECK(encode.shared_bytes + kOwnSharedBytes <= kMostSharedBytes);
      }
      for (const int bits : kBits) {
        const TileLaunch decode = decode_tile_launch(dim, bits, count);
        check_tiles(decode, rows, count);
        CHECK(decode.shared_bytes >= kDecodeWarps * rows * dim * 4 + 8 * (kPairCopies << (2 * bits)));
        CHECK(decode.shared_bytes + 3 * 1024 <= kMostSharedBytes);  // and the levels
      }
    }
  }
}

TEST_CASE("the grids of the kernels with a row a lane reach every row, in blocks that every device takes") {
  for (const std::int64_t count : counts_of(kLaneRows)) {
    CAPTURE(count);
    for (const DType dtype : kDTypes) {
      const int row_bytes = kLaneRowDim * static_cast<int>(size_of(dtype));
      const TileLaunch launch = lane_row_launch(dtype, count);
      check_tiles(launch, kLaneRows, count);
      CHECK(launch.shared_bytes + kOwnSharedBytes <= kMostSharedBytes);
      CHECK(launch.shared_bytes == kLaneRowWarps * kLaneRows * (row_bytes + 16));
      CHECK((row_bytes + 16) % 32 == 16);  // an odd number of 16 bytes: eight lanes that read 16 bytes each meet in no bank
    }
  }
}

TEST_CASE("the H_12 that kernels know is the one that tq writes") {
  const std::vector<float> matrix = paley_matrix(12);
  for (int i = 0; i < 12; ++i) {
    for (int j = 0; j < 12; ++j) {
      CAPTURE(i);
      CAPTURE(j);
      CHECK(matrix[static_cast<std::size_t>(12 * i + j)] == (hadamard12_is_minus(i, j) ? -1.0f : 1.0f));
    }
  }
}

TEST_CASE("a tile in shared memory holds its rows, which start at multiples of 16 bytes in different banks") {
  for (const int dim : kDims) {
    const int rows = kTileElements / dim;
    CHECK(tile_floats(dim) == rows * (dim + 8));
    CHECK((dim + 8) % 4 == 0);
    CHECK((dim + 8) % 32 == 8);
  }
}

TEST_CASE("the plain kernels' grids have a thread for every row") {
  for (const std::int64_t count : counts_of(kRowsPerBlock)) {
    const std::int64_t blocks = plain_blocks(count);
    CHECK(blocks * kRowsPerBlock >= count);
    CHECK((blocks - 1) * kRowsPerBlock < count);
    CHECK(blocks * kRowsPerBlock < (std::int64_t{1} << 31));
  }
}

}  // namespace
}  // namespace tq::cuda
