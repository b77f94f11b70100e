// Encode on the CPU: TQ_LANES rows at a time, one row a lane. Compiled once per target (TQ_TARGET, TQ_LANES).
// A block of rows stays in the L1 cache from the load to the packed words: 8 KB at dim 128 with 16 lanes.
#include "kernels/cpu_target.h"
#include "kernels/lanes_io.h"

namespace tq::TQ_TARGET {
namespace {

using V = math::FloatLanes<TQ_LANES>;
using I = math::IntLanes<TQ_LANES>;

/// What one call works in, on the stack: at most 256 KB.
struct Buffers {
  alignas(64) V x[math::kMaxDim];
  alignas(64) V scratch[math::kRotationScratch];
  alignas(64) I words[math::kMaxDim];
};

int first_lane(I mask) {
  std::int32_t lanes[TQ_LANES];
  memcpy(lanes, &mask, sizeof(lanes));
  int lane = 0;
  while (lanes[lane] == 0) ++lane;
  return lane;
}

template <int Bits>
std::int64_t encode_all(const EncodeArgs& args) {
  Buffers b;
  const math::CodeFinder<Bits, V> find_code(*args.codebook);
  const math::LevelTable<Bits, V> level_of(*args.codebook);
  const int dim = args.rotation.dim;
  const std::int64_t source_bytes = dim * static_cast<std::int64_t>(size_of(args.dtype));
  const int code_bytes = math::row_bytes(dim, Bits);
  std::int64_t row = 0;
  for (; row + TQ_LANES <= args.count; row += TQ_LANES) {
    math::prefetch<false>(args.rows + (row + 2 * TQ_LANES) * source_bytes, TQ_LANES * source_bytes);
    math::load_rows(args.dtype, args.rows + row * source_bytes, dim, b.words, b.x);
    const auto coded = math::encode_row<Bits>(b.x, args.rotation, find_code, level_of, args.rule, b.words, b.scratch);
    memcpy(args.norms + row, &coded.norm, sizeof(V));
    math::store_words(b.words, args.codes + row * code_bytes, code_bytes, code_bytes);
    if (math::any(coded.refused)) return row + first_lane(coded.refused);
  }
  if (row == args.count) return -1;
  EncodeArgs rest = args;
  rest.rows += row * source_bytes;
  rest.codes += row * code_bytes;
  rest.norms += row;
  rest.count -= row;
  const std::int64_t refused = scalar::encode_rows(rest);
  return refused < 0 ? -1 : row + refused;
}

}  // namespace

std::int64_t encode_rows(const EncodeArgs& args) {
  switch (args.codebook->bits) {
    case 1: return encode_all<1>(args);
    case 2: return encode_all<2>(args);
    case 3: return encode_all<3>(args);
    case 4: return encode_all<4>(args);
    case 5: return encode_all<5>(args);
    case 6: return encode_all<6>(args);
    case 7: return encode_all<7>(args);
    default: return encode_all<8>(args);
  }
}

}  // namespace tq::TQ_TARGET
