// Encode on the CPU: TQ_LANES rows at a time, one row a lane. Compiled once per target (TQ_TARGET, TQ_LANES).
#include "kernels/row_blocks.h"

namespace tq::TQ_TARGET {

std::int64_t encode_rows(const EncodeArgs& args) {
  if (args.count < TQ_LANES) return args.count == 0 ? -1 : scalar::encode_rows(args);
  return with_bits(args.codebook->bits, [&]<int Bits>(std::integral_constant<int, Bits>) {
    const bool brief = args.dtype == DType::kBf16;
    return encode_blocks<Bits>(
        args,
        [&](Buffers& b, const auto& find_code, const auto& level_of) {
          return math::encode_row<Bits>(b.x, args.rotation, find_code, level_of, args.rule, b.words, b.scratch, brief);
        });
  });
}

}  // namespace tq::TQ_TARGET
