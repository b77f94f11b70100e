// When the fast kernels of gpu_encode_tile.h apply, and which.
#include "kernels/gpu_bins.h"
#include "kernels/gpu_encode_tile_dims.h"

namespace tq::cuda {

bool encode_tile_rows(const EncodeArgs& args, unsigned long long* first_refused) {
  Bins bins;
  if (args.rule.divide_first && args.rule.mode == NormMode::kLeastSquares) return false;
  if (!has_tiles(args.rotation, args.codebook->bits, args.rows, args.codes) || !make_bins(*args.codebook, bins)) return false;
  switch (args.rotation.dim) {
    case 64: encode_tiles_64(args, bins, first_refused); break;
    case 128: encode_tiles_128(args, bins, first_refused); break;
    default: encode_tiles_256(args, bins, first_refused);
  }
  return true;
}

}  // namespace tq::cuda
