// The sketch of residuals on the GPU: any dim up to 1024, one thread a row, as in encode.cu. The plain kernels: each
// row costs dim^2 products, all threads of a warp read the same entry of S at once, and S (64 KB at dim 128) stays in
// the L2 cache.
#include "kernels/cuda_check.h"
#include "kernels/gpu_rows.h"
#include "kernels/gpu_target.h"
#include "lib/math/qjl.h"

namespace tq::cuda {
namespace {

// ---- The kernels, for rows of at most Capacity elements.

template <int Capacity>
__global__ void __launch_bounds__(kRowsPerBlock)
    sketch_any(const __grid_constant__ SketchArgs args, unsigned long long* first_refused) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x;
  if (row >= args.count) return;
  float x[Capacity];
  float scratch[2 * Capacity];  // kRotationScratch, for rows of Capacity
  std::int32_t words[Capacity / 32];
  const int bytes = math::row_bytes(args.dim, 1);
  load_row(args.dtype, args.rows + row * args.dim * element_bytes(args.dtype), args.dim, x);
  const auto sketch =
      math::sketch_row<float>(x, args.x_hat + row * args.dim, args.s, args.dim, args.f16_norms, words, scratch);
  store_words(words, bytes, args.signs + row * bytes);
  args.norms[row] = sketch.norm;
  if (sketch.refused != 0) atomicMin(first_refused, static_cast<unsigned long long>(row));
}

template <int Capacity>
__global__ void __launch_bounds__(kRowsPerBlock)
    add_sketch_any(const __grid_constant__ SketchArgs args, float constant) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x;
  if (row >= args.count) return;
  float scratch[2 * Capacity];
  std::int32_t words[Capacity / 32];
  const int bytes = math::row_bytes(args.dim, 1);
  load_words(args.signs + row * bytes, bytes, words);
  math::add_sketch_row(args.x_hat + row * args.dim, words, args.norms[row], args.s, args.dim, constant, scratch);
}


}  // namespace

// ---- The launchers.

void sketch_rows(const SketchArgs& args, unsigned long long* first_refused) {
  check_launch("sketch", 1, args.dim, args.dtype, args.count);
  const unsigned blocks = plain_blocks(args.count);
  if (args.dim <= 256) {
    sketch_any<256><<<blocks, kRowsPerBlock>>>(args, first_refused);
  } else {
    sketch_any<math::kMaxDim><<<blocks, kRowsPerBlock>>>(args, first_refused);
  }
  check_cuda(cudaGetLastError(), "starting to sketch residuals");
}

void add_sketches(const SketchArgs& args) {
  check_launch("add_sketches", 1, args.dim, args.dtype, args.count);
  const unsigned blocks = plain_blocks(args.count);
  const float constant = math::sketch_constant(args.dim);
  if (args.dim <= 256) {
    add_sketch_any<256><<<blocks, kRowsPerBlock>>>(args, constant);
  } else {
    add_sketch_any<math::kMaxDim><<<blocks, kRowsPerBlock>>>(args, constant);
  }
  check_cuda(cudaGetLastError(), "starting to add sketches");
}

}  // namespace tq::cuda
