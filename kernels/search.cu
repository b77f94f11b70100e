// Encode with the scale search on the GPU: one thread a row, any dim up to 1024, any rotation, as encode.cu's plain kernel. A row stays
// in the thread's local memory while the scales go over it; edges and levels are looked up in shared memory.
#include "kernels/cuda_check.h"
#include "kernels/gpu_rows.h"
#include "kernels/gpu_target.h"
#include "kernels/with_bits.h"

namespace tq::cuda {
namespace {

// ---- The kernel, for rows of at most Capacity elements.

template <int Bits, int Capacity>
__global__ void __launch_bounds__(kRowsPerBlock)
    search_any(const __grid_constant__ EncodeArgs args, const __grid_constant__ Codebook table,
               const __grid_constant__ math::ScaleSearch search, unsigned long long* first_refused) {
  __shared__ Codebook codebook;
  for (int i = static_cast<int>(threadIdx.x); i < (1 << Bits); i += kRowsPerBlock) {
    codebook.edges[i] = table.edges[i];
    codebook.levels[i] = table.levels[i];
  }
  __syncthreads();

  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x;
  if (row >= args.count) return;
  float x[Capacity];
  float scratch[2 * Capacity];  // kRotationScratch, for rows of Capacity
  std::int32_t words[Capacity * Bits / 32];
  const int dim = args.rotation.dim;
  const int bytes = math::row_bytes(dim, Bits);
  load_row(args.dtype, args.rows + row * dim * element_bytes(args.dtype), dim, x);
  const math::CodeFinder<Bits, float> find_code(codebook);
  const math::LevelTable<Bits, float> level_of(codebook);
  const auto coded =
      math::encode_row_searched<Bits>(x, args.rotation, find_code, level_of, search, args.rule.f16, words, scratch);
  store_words(words, bytes, args.codes + row * bytes);
  args.norms[row] = coded.norm;
  if (coded.refused != 0) atomicMin(first_refused, static_cast<unsigned long long>(row));
}

// ---- The launcher.

template <int Bits>
void launch_search(const EncodeArgs& args, const math::ScaleSearch& search, unsigned long long* first_refused) {
  const unsigned blocks = plain_blocks(args.count);
  if (args.rotation.dim <= 256) {
    search_any<Bits, 256><<<blocks, kRowsPerBlock>>>(args, *args.codebook, search, first_refused);
  } else {
    search_any<Bits, math::kMaxDim><<<blocks, kRowsPerBlock>>>(args, *args.codebook, search, first_refused);
  }
  check_cuda(cudaGetLastError(), "starting to search scales");
}

}  // namespace

void search_rows(const EncodeArgs& args, const math::ScaleSearch& search, unsigned long long* first_refused) {
  check_launch("search", args.codebook->bits, args.rotation.dim, args.dtype, args.count);
  with_bits(args.codebook->bits,
            [&]<int Bits>(std::integral_constant<int, Bits>) { launch_search<Bits>(args, search, first_refused); });
}

}  // namespace tq::cuda
