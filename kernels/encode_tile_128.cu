// The fast encoder for rows of 128 elements: see gpu_encode_tile.h.
#include "kernels/gpu_encode_tile.h"
#include "kernels/gpu_encode_tile_dims.h"

namespace tq::cuda {

void encode_tiles_128(const EncodeArgs& args, const TileCodebook& codebook, unsigned long long* first_refused) {
  choose_bits<4>(args, codebook, first_refused);
}

}  // namespace tq::cuda
