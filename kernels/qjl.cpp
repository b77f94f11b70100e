// The sketch of residuals on the CPU, TQ_LANES rows at a time. dim^2 products a row: it is not made to be fast.
#include "kernels/row_blocks.h"
#include "lib/math/qjl.h"

namespace tq::TQ_TARGET {
namespace {

std::uint8_t* bytes_of(float* rows) { return reinterpret_cast<std::uint8_t*>(rows); }

SketchArgs skip_rows(SketchArgs args, std::int64_t rows) {
  if (args.rows != nullptr) args.rows += rows * args.dim * static_cast<std::int64_t>(size_of(args.dtype));
  args.x_hat += rows * args.dim;
  args.signs += rows * math::row_bytes(args.dim, 1);
  args.norms += rows;
  args.count -= rows;
  return args;
}

}  // namespace

std::int64_t sketch_rows(const SketchArgs& args) {
  Buffers b;
  alignas(64) V x_hat[math::kMaxDim];
  const int sign_bytes = math::row_bytes(args.dim, 1);
  std::int64_t row = 0;
  for (; row + TQ_LANES <= args.count; row += TQ_LANES) {
    const SketchArgs here = skip_rows(args, row);
    math::load_rows(args.dtype, here.rows, args.dim, b.x);
    math::load_rows(DType::kF32, bytes_of(here.x_hat), args.dim, x_hat);
    const auto sketch = math::sketch_row(b.x, x_hat, args.s, args.dim, args.f16_norms, b.words, b.scratch);
    memcpy(here.norms, &sketch.norm, sizeof(V));
    math::store_words(b.words, here.signs, sign_bytes, sign_bytes);
    if (math::any(sketch.refused)) return row + first_lane(sketch.refused);
  }
  if (row == args.count) return -1;
  const std::int64_t refused = scalar::sketch_rows(skip_rows(args, row));
  return refused < 0 ? -1 : row + refused;
}

void add_sketches(const SketchArgs& args) {
  Buffers b;
  const int sign_bytes = math::row_bytes(args.dim, 1);
  const float constant = math::sketch_constant(args.dim);
  std::int64_t row = 0;
  for (; row + TQ_LANES <= args.count; row += TQ_LANES) {
    const SketchArgs here = skip_rows(args, row);
    math::load_rows(DType::kF32, bytes_of(here.x_hat), args.dim, b.x);
    math::load_words(here.signs, sign_bytes, sign_bytes, b.words);
    V norm;
    memcpy(&norm, here.norms, sizeof(V));
    math::add_sketch_row(b.x, b.words, norm, args.s, args.dim, constant, b.scratch);
    math::store_rows(DType::kF32, b.x, args.dim, b.words, bytes_of(here.x_hat));
  }
  if (row < args.count) scalar::add_sketches(skip_rows(args, row));
}

}  // namespace tq::TQ_TARGET
