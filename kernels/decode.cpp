// Decode on the CPU: the mirror of encode.cpp, TQ_LANES rows at a time, one row a lane.
#include "kernels/row_blocks.h"

namespace tq::TQ_TARGET {
namespace {

template <int Bits>
void decode_all(const DecodeArgs& args) {
  if (args.count < TQ_LANES) return args.count == 0 ? void() : scalar::decode_rows(args);
  Buffers b;
  const math::LevelTable<Bits, V> level_of(*args.codebook);
  const int dim = args.rotation.dim;
  const std::int64_t target_bytes = dim * static_cast<std::int64_t>(size_of(args.dtype));
  const int code_bytes = math::row_bytes(dim, Bits);
  for (std::int64_t next = 0; next < args.count; next += TQ_LANES) {
    const std::int64_t row = std::min(next, args.count - TQ_LANES);  // the last block overlaps the one before
    math::prefetch<false>(args.codes + (row + 4 * TQ_LANES) * code_bytes, TQ_LANES * code_bytes);
    math::prefetch<true>(args.rows + (row + TQ_LANES) * target_bytes, TQ_LANES * target_bytes);
    math::load_words(args.codes + row * code_bytes, code_bytes, code_bytes, b.words);
    V norm;
    memcpy(&norm, args.norms + row, sizeof(V));
    math::decode_row<Bits>(b.words, norm, args.rotation, level_of, b.x, b.scratch);
    math::store_rows(args.dtype, b.x, dim, b.words, args.rows + row * target_bytes);
  }
}

}  // namespace

void decode_rows(const DecodeArgs& args) {
  with_bits(args.codebook->bits, [&]<int Bits>(std::integral_constant<int, Bits>) { decode_all<Bits>(args); });
}

}  // namespace tq::TQ_TARGET
