// Encode on the GPU: any dim up to 1024, any rotation, one thread a row. This is the plain kernel: it calls lib/math
// with V = float, so it is right wherever the CPU is, and it is what faster kernels for single dims are compared with.
//
// The row, its scratch and its words lie in the thread's local memory, which the hardware interleaves by 4 bytes: when
// the 32 threads of a warp touch x[i], they touch one 128-byte line, although each sees a contiguous array. Rows in
// device memory are read element after element by one thread, so the lines of 32 rows wait in the L1 cache for their
// other elements. Codes are looked up in shared memory: in constant memory 32 different edges would take 32 turns.
#include "kernels/cuda_check.h"
#include "kernels/gpu_plain.h"
#include "kernels/with_bits.h"

namespace tq::cuda {
namespace {

// ---- The kernel, for rows of at most Capacity elements.

template <int Bits, int Capacity>
__global__ void __launch_bounds__(kRowsPerBlock)
    encode_any(const __grid_constant__ EncodeArgs args, const __grid_constant__ Codebook table,
               unsigned long long* first_refused) {
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
  encode_one<Bits>(args, codebook.edges, codebook.levels, row, x, scratch, words, first_refused);
}

// ---- The launcher.

template <int Bits>
void launch_encode(const EncodeArgs& args, unsigned long long* first_refused) {
  const unsigned blocks = plain_blocks(args.count);
  if (args.rotation.dim <= 256) {
    encode_any<Bits, 256><<<blocks, kRowsPerBlock>>>(args, *args.codebook, first_refused);
  } else {
    encode_any<Bits, math::kMaxDim><<<blocks, kRowsPerBlock>>>(args, *args.codebook, first_refused);
  }
  check_cuda(cudaGetLastError(), "starting to encode");
}

}  // namespace

bool has_code_for_device() {
  cudaFuncAttributes attributes;
  const cudaError_t status = cudaFuncGetAttributes(&attributes, encode_any<1, 256>);
  if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorUnsupportedPtxVersion) {
    cudaGetLastError();
    return false;
  }
  check_cuda(status, "looking for the kernels");
  return true;
}

void encode_rows(const EncodeArgs& args, unsigned long long* first_refused) {
  check_launch("encode", args.codebook->bits, args.rotation.dim, args.dtype, args.count);
  if (encode_tile_rows(args, first_refused)) return;
  with_bits(args.codebook->bits, [&]<int Bits>(std::integral_constant<int, Bits>) { launch_encode<Bits>(args, first_refused); });
}

}  // namespace tq::cuda
