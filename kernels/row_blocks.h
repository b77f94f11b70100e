// What the CPU kernels share: a block is TQ_LANES rows, one a lane. A block of rows stays in the L1 cache from the load to the
// packed words: 8 KB at dim 128 with 16 lanes.
#pragma once

#include <algorithm>

#include "kernels/cpu_target.h"
#include "kernels/lanes_io.h"
#include "kernels/with_bits.h"

namespace tq::TQ_TARGET {

using V = math::FloatLanes<TQ_LANES>;
using I = math::IntLanes<TQ_LANES>;

/// What one call works in, on the stack: at most 256 KB.
struct Buffers {
  alignas(64) V x[math::kMaxDim];
  alignas(64) V scratch[math::kRotationScratch];
  alignas(64) I words[math::kMaxDim];
};

/// The first lane in which a mask is set; there is one.
inline int first_lane(I mask) {
  std::int32_t lanes[TQ_LANES];
  memcpy(lanes, &mask, sizeof(lanes));
  int lane = 0;
  while (lanes[lane] == 0) ++lane;
  return lane;
}

/// Encodes TQ_LANES rows or more, block by block: encode_block(buffers, find_code, level_of) makes codes in buffers.words of the rows
/// in buffers.x, and returns a math::EncodedRow. The last block overlaps the one before where rows are no multiple of TQ_LANES.
/// Returns the first row refused, or -1.
template <int Bits, class EncodeBlock>
std::int64_t encode_blocks(const EncodeArgs& args, EncodeBlock&& encode_block) {
  Buffers b;
  const math::CodeFinder<Bits, V> find_code(*args.codebook);
  const math::LevelTable<Bits, V> level_of(*args.codebook);
  const int dim = args.rotation.dim;
  const std::int64_t source_bytes = dim * static_cast<std::int64_t>(size_of(args.dtype));
  const int code_bytes = math::row_bytes(dim, Bits);
  for (std::int64_t next = 0; next < args.count; next += TQ_LANES) {
    const std::int64_t row = std::min(next, args.count - TQ_LANES);
    math::prefetch<false>(args.rows + (row + 2 * TQ_LANES) * source_bytes, TQ_LANES * source_bytes);
    math::load_rows(args.dtype, args.rows + row * source_bytes, dim, b.x);
    const math::EncodedRow<V> coded = encode_block(b, find_code, level_of);
    memcpy(args.norms + row, &coded.norm, sizeof(V));
    math::store_words(b.words, args.codes + row * code_bytes, code_bytes, code_bytes);
    if (math::any(coded.refused)) return row + first_lane(coded.refused);
  }
  return -1;
}

}  // namespace tq::TQ_TARGET
