// Encode on the CPU: kWidth rows at a time, one row a lane. Compiled once per target (TQ_TARGET, TQ_LANES).
// A block of rows stays in the L1 cache from the load to the packed words: 8 KB at dim 128 with 16 lanes.
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

/// Codes exactly TQ_LANES rows. Returns the first lane that is refused, or -1.
template <int Bits>
int encode_block(const EncodeArgs& args, const std::uint8_t* rows, std::uint8_t* codes, float* norms, const math::CodeFinder<Bits, V>& find_code, Buffers& b) {
  const int dim = args.rotation.dim;
  math::load_rows(args.dtype, rows, dim, b.words, b.x);
  const auto row = math::encode_row<Bits>(b.x, args.rotation, find_code, b.words, b.scratch);
  memcpy(norms, &row.norm, sizeof(V));
  const int bytes = math::row_bytes(dim, Bits);
  math::store_words(b.words, codes, bytes, bytes);
  if (!math::any(row.refused)) return -1;
  std::int32_t refused[TQ_LANES];
  memcpy(refused, &row.refused, sizeof(refused));
  int lane = 0;
  while (refused[lane] == 0) ++lane;
  return lane;
}

/// The last rows, fewer than TQ_LANES: padded with rows of zeros.
template <int Bits>
int encode_tail(const EncodeArgs& args, std::int64_t start, const math::CodeFinder<Bits, V>& find_code, Buffers& b) {
  const std::int64_t left = args.count - start;
  const std::size_t source_bytes = static_cast<std::size_t>(args.rotation.dim) * size_of(args.dtype);
  const auto code_bytes = static_cast<std::size_t>(math::row_bytes(args.rotation.dim, Bits));
  const auto rows_left = static_cast<std::size_t>(left);
  std::uint8_t* rows = b.tail_rows;
  std::uint8_t* codes = b.tail_codes;
  float norms[TQ_LANES];
  memset(rows, 0, TQ_LANES * source_bytes);
  memcpy(rows, args.rows + static_cast<std::size_t>(start) * source_bytes, rows_left * source_bytes);
  const int refused = encode_block<Bits>(args, rows, codes, norms, find_code, b);
  memcpy(args.codes + static_cast<std::size_t>(start) * code_bytes, codes, rows_left * code_bytes);
  memcpy(args.norms + start, norms, rows_left * sizeof(float));
  return refused;
}

template <int Bits>
std::int64_t encode_all(const EncodeArgs& args) {
  Buffers buffers;
  const math::CodeFinder<Bits, V> find_code(*args.codebook);
  const std::int64_t source_bytes = args.rotation.dim * static_cast<std::int64_t>(size_of(args.dtype));
  const std::int64_t code_bytes = math::row_bytes(args.rotation.dim, Bits);
  std::int64_t row = 0;
  for (; row + TQ_LANES <= args.count; row += TQ_LANES) {
    const int refused = encode_block<Bits>(args, args.rows + row * source_bytes, args.codes + row * code_bytes,
                                           args.norms + row, find_code, buffers);
    if (refused >= 0) return row + refused;
  }
  if (row == args.count) return -1;
  const int refused = encode_tail<Bits>(args, row, find_code, buffers);
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
