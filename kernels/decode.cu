// Decode on the GPU: the mirror of encode.cu, one thread a row, any dim up to 1024, any rotation. The plain kernel.
// Layout as there: the row and its scratch in local memory, interleaved by the hardware; the levels in shared memory.
#include "kernels/cuda_check.h"
#include "kernels/gpu_plain.h"
#include "kernels/with_bits.h"

namespace tq::cuda {
namespace {

// ---- The kernel, for rows of at most Capacity elements.

template <int Bits, int Capacity>
__global__ void __launch_bounds__(kRowsPerBlock)
    decode_any(const __grid_constant__ DecodeArgs args, const __grid_constant__ Codebook table) {
  __shared__ Codebook codebook;
  for (int i = static_cast<int>(threadIdx.x); i < (1 << Bits); i += kRowsPerBlock) codebook.levels[i] = table.levels[i];
  __syncthreads();

  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x;
  if (row >= args.count) return;
  float x[Capacity];
  float scratch[2 * Capacity];  // kRotationScratch, for rows of Capacity
  std::int32_t words[Capacity * Bits / 32];
  decode_one<Bits>(args, codebook, row, x, scratch, words);
}

// ---- The launcher.

template <int Bits>
void launch_decode(const DecodeArgs& args) {
  const unsigned blocks = plain_blocks(args.count);
  if (args.rotation.dim <= 256) {
    decode_any<Bits, 256><<<blocks, kRowsPerBlock>>>(args, *args.codebook);
  } else {
    decode_any<Bits, math::kMaxDim><<<blocks, kRowsPerBlock>>>(args, *args.codebook);
  }
  check_cuda(cudaGetLastError(), "starting to decode");
}

}  // namespace

void decode_rows(const DecodeArgs& args) {
  check_launch("decode", args.codebook->bits, args.rotation.dim, args.dtype, args.count);
  if (decode_tile_rows(args)) return;
  with_bits(args.codebook->bits, [&]<int Bits>(std::integral_constant<int, Bits>) { launch_decode<Bits>(args); });
}

}  // namespace tq::cuda
