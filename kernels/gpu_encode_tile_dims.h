// The fast encoders by dim: one .cu file each, so that they compile side by side.
#pragma once

#include "kernels/gpu_bins.h"
#include "kernels/gpu_target.h"

namespace tq::cuda {

/// Rows of 96 under H_12, not divided first: encode_lane_row.cu.
void encode_rows_96(const EncodeArgs& args, const TileCodebook& codebook, unsigned long long* first_refused);
void encode_tiles_64(const EncodeArgs& args, const TileCodebook& codebook, unsigned long long* first_refused);
void encode_tiles_128(const EncodeArgs& args, const TileCodebook& codebook, unsigned long long* first_refused);
void encode_tiles_256(const EncodeArgs& args, const TileCodebook& codebook, unsigned long long* first_refused);

}  // namespace tq::cuda
