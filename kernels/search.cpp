// Encode with the scale search on the CPU: as encode.cpp, TQ_LANES rows at a time, one row a lane. A file of its own, so
// that nothing of it weighs on plain encoding. A row's rotated values stay in the L1 cache while the scales go over them.
#include "kernels/cpu_target.h"
#include "kernels/lanes_io.h"

namespace tq::TQ_TARGET {
namespace {

using V = math::FloatLanes<TQ_LANES>;
using I = math::IntLanes<TQ_LANES>;

struct Buffers {
  alignas(64) V x[math::kMaxDim];
  alignas(64) V scratch[math::kRotationScratch];
  alignas(64) I words[math::kMaxDim];
};

template <int Bits>
std::int64_t search_all(const EncodeArgs& args, const math::ScaleSearch& search) {
  Buffers b;
  const math::CodeFinder<Bits, V> find_code(*args.codebook);
  const math::LevelTable<Bits, V> level_of(*args.codebook);
  const int dim = args.rotation.dim;
  const std::int64_t source_bytes = dim * static_cast<std::int64_t>(size_of(args.dtype));
  const int code_bytes = math::row_bytes(dim, Bits);
  std::int64_t row = 0;
  for (; row + TQ_LANES <= args.count; row += TQ_LANES) {
    math::load_rows(args.dtype, args.rows + row * source_bytes, dim, b.words, b.x);
    const auto coded = math::encode_row_searched<Bits>(b.x, args.rotation, find_code, level_of, search, args.rule.f16,
                                                       b.words, b.scratch);
    memcpy(args.norms + row, &coded.norm, sizeof(V));
    math::store_words(b.words, args.codes + row * code_bytes, code_bytes, code_bytes);
    if (math::any(coded.refused)) {
      for (int lane = 0; lane < TQ_LANES; ++lane) {
        std::int32_t refused = 0;
        memcpy(&refused, reinterpret_cast<const char*>(&coded.refused) + 4 * lane, 4);
        if (refused != 0) return row + lane;
      }
    }
  }
  if (row == args.count) return -1;
  EncodeArgs rest = args;
  rest.rows += row * source_bytes;
  rest.codes += row * code_bytes;
  rest.norms += row;
  rest.count -= row;
  const std::int64_t refused = scalar::search_rows(rest, search);
  return refused < 0 ? -1 : row + refused;
}

}  // namespace

std::int64_t search_rows(const EncodeArgs& args, const math::ScaleSearch& search) {
  switch (args.codebook->bits) {
    case 1: return search_all<1>(args, search);
    case 2: return search_all<2>(args, search);
    case 3: return search_all<3>(args, search);
    case 4: return search_all<4>(args, search);
    case 5: return search_all<5>(args, search);
    case 6: return search_all<6>(args, search);
    case 7: return search_all<7>(args, search);
    default: return search_all<8>(args, search);
  }
}

}  // namespace tq::TQ_TARGET
