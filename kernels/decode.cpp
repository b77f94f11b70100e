// Decode on the CPU: the mirror of encode.cpp, TQ_LANES rows at a time, one row a lane.
#include "kernels/cpu_target.h"
#include "kernels/lanes_io.h"
#include "lib/math/row.h"

namespace tq::TQ_TARGET {
namespace {

using V = math::FloatLanes<TQ_LANES>;
using I = math::IntLanes<TQ_LANES>;

/// What one call works in, on the stack: at most 340 KB.
struct Buffers {
  alignas(64) V x[math::kMaxDim];
  alignas(64) V scratch[math::kRotationScratch];
  alignas(64) I words[math::kMaxDim];
  alignas(64) std::uint8_t tail_rows[TQ_LANES * math::kMaxDim * 4];
  alignas(64) std::uint8_t tail_codes[TQ_LANES * math::kMaxDim];
};

template <int Bits>
void decode_block(const DecodeArgs& args, const std::uint8_t* codes, const float* norms, std::uint8_t* rows,
                  const math::LevelTable<Bits, V>& level_of, Buffers& b) {
  const int dim = args.rotation.dim;
  const int bytes = math::row_bytes(dim, Bits);
  math::load_words(codes, bytes, bytes, b.words);
  V norm;
  memcpy(&norm, norms, sizeof(V));
  math::decode_row<Bits>(b.words, norm, args.rotation, level_of, b.x, b.scratch);
  math::store_rows(args.dtype, b.x, dim, b.words, rows);
}

template <int Bits>
void decode_tail(const DecodeArgs& args, std::int64_t start, const math::LevelTable<Bits, V>& level_of, Buffers& b) {
  const auto rows_left = static_cast<std::size_t>(args.count - start);
  const std::size_t target_bytes = static_cast<std::size_t>(args.rotation.dim) * size_of(args.dtype);
  const auto code_bytes = static_cast<std::size_t>(math::row_bytes(args.rotation.dim, Bits));
  std::uint8_t* rows = b.tail_rows;
  std::uint8_t* codes = b.tail_codes;
  float norms[TQ_LANES] = {};
  memset(codes, 0, TQ_LANES * code_bytes);
  memcpy(codes, args.codes + static_cast<std::size_t>(start) * code_bytes, rows_left * code_bytes);
  memcpy(norms, args.norms + start, rows_left * sizeof(float));
  decode_block<Bits>(args, codes, norms, rows, level_of, b);
  memcpy(args.rows + static_cast<std::size_t>(start) * target_bytes, rows, rows_left * target_bytes);
}

template <int Bits>
void decode_all(const DecodeArgs& args) {
  Buffers buffers;
  const math::LevelTable<Bits, V> level_of(*args.codebook);
  const std::int64_t target_bytes = args.rotation.dim * static_cast<std::int64_t>(size_of(args.dtype));
  const std::int64_t code_bytes = math::row_bytes(args.rotation.dim, Bits);
  std::int64_t row = 0;
  for (; row + TQ_LANES <= args.count; row += TQ_LANES) {
    decode_block<Bits>(args, args.codes + row * code_bytes, args.norms + row, args.rows + row * target_bytes, level_of, buffers);
  }
  if (row < args.count) decode_tail<Bits>(args, row, level_of, buffers);
}

}  // namespace

void decode_rows(const DecodeArgs& args) {
  switch (args.codebook->bits) {
    case 1: return decode_all<1>(args);
    case 2: return decode_all<2>(args);
    case 3: return decode_all<3>(args);
    case 4: return decode_all<4>(args);
    case 5: return decode_all<5>(args);
    case 6: return decode_all<6>(args);
    case 7: return decode_all<7>(args);
    default: return decode_all<8>(args);
  }
}

}  // namespace tq::TQ_TARGET
