// When the fast encoders apply, and which.
#include "kernels/gpu_bins.h"
#include "kernels/gpu_encode_tile_dims.h"

namespace tq::cuda {

bool encode_tile_rows(const EncodeArgs& args, unsigned long long* first_refused) {
  TileCodebook codebook;
  if (args.rule.divide_first && (args.rule.mode == NormMode::kLeastSquares || args.rotation.dim == 96)) return false;
  if (!has_tiles(args.rotation, args.codebook->bits, args.rows, args.codes)) return false;
  const float scale = args.rule.divide_first ? args.rotation.scale : 1.0f;
  const int shift = args.rotation.dim == 96 ? 1 : code_shift(args.rule.mode, args.codebook->bits);
  if (!make_tile_codebook(*args.codebook, scale, shift, codebook)) return false;
  switch (args.rotation.dim) {
    case 64: encode_tiles_64(args, codebook, first_refused); break;
    case 96: encode_rows_96(args, codebook, first_refused); break;
    case 128: encode_tiles_128(args, codebook, first_refused); break;
    default: encode_tiles_256(args, codebook, first_refused);
  }
  return true;
}

}  // namespace tq::cuda
