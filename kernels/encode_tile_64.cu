// The fast encoder for rows of 64 elements: see gpu_encode_tile.h.
#include "kernels/gpu_encode_tile.h"
#include "kernels/gpu_encode_tile_dims.h"

namespace tq::cuda {

void encode_tiles_64(const EncodeArgs& args, const TileCodebook& codebook, unsigned long long* first_refused) {
  choose_bits<2>(args, codebook, first_refused);
}

}  // namespace tq::cuda
