// Encode with the scale search on the CPU, as encode.cpp. A file of its own, so that nothing of it weighs on plain encoding. A
// row's rotated values stay in the L1 cache while the scales go over them.
#include "kernels/row_blocks.h"

namespace tq::TQ_TARGET {

std::int64_t search_rows(const EncodeArgs& args, const math::ScaleSearch& search) {
  if (args.count < TQ_LANES) return args.count == 0 ? -1 : scalar::search_rows(args, search);
  return with_bits(args.codebook->bits, [&]<int Bits>(std::integral_constant<int, Bits>) {
    return encode_blocks<Bits>(
        args,
        [&](Buffers& b, const auto& find_code, const auto& level_of) {
          return math::encode_row_searched<Bits>(b.x, args.rotation, find_code, level_of, search, args.rule.f16, b.words,
                                                 b.scratch);
        });
  });
}

}  // namespace tq::TQ_TARGET
