// Encode on the GPU, fast, one row a lane (gpu_lane_row.h): rows of 96 elements under H_12, 2, 3 and 4 bits. Rows come in a
// tile ahead (gpu_stages.h), codes are found by bins (gpu_bins.h) and leave through shared memory, 16 bytes a lane. A tile with a row
// that is not finite or out of range, the last rows of a launch, and all rows of another H_12 are coded by the plain code.
#include <cuda_fp16.h>

#include "kernels/cuda_check.h"
#include "kernels/gpu_bins.h"
#include "kernels/gpu_encode_tile_dims.h"
#include "kernels/gpu_lane_row.h"
#include "kernels/gpu_stages.h"

namespace tq::cuda {
namespace {

/// What one kernel is made for. BF16 is a constant; F32 and F16 share a kernel.
template <int Bits, NormMode Mode, bool Bf16>
struct LaneKind {
  static constexpr int kBits = Bits;
  static constexpr NormMode kMode = Mode;
  static constexpr bool kBf16 = Bf16;
  static constexpr int kWords = 3 * Bits;  ///< of a row's codes
};

// ---- Helpers.

/// A chunk of a row, with its signs (0 or 0x80000000): squares do not see them, and zeros have none that counts.
template <class K>
__device__ __forceinline__ void read_chunk(DType dtype, const std::uint8_t* row, int chunk, const std::uint32_t (&sign)[8], float (&x)[8]) {
  if (!K::kBf16 && dtype == DType::kF32) {
    load_eight(reinterpret_cast<const float*>(row) + 8 * chunk, x);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = __uint_as_float(__float_as_uint(x[i]) ^ sign[i]);
    return;
  }
  const uint4 words = reinterpret_cast<const uint4*>(row)[chunk];
  const std::uint32_t w[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (K::kBf16) {
      x[2 * i] = __uint_as_float((w[i] << 16) + sign[2 * i]);
      x[2 * i + 1] = __uint_as_float((w[i] & 0xffff0000u) ^ sign[2 * i + 1]);
    } else {
      const std::uint32_t word = w[i] ^ (sign[2 * i] >> 16) ^ sign[2 * i + 1];
      const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&word));
      x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
    }
  }
}

/// The sum of a chunk's squares, as a pairwise tree.
__device__ __forceinline__ float sum_chunk(const float (&x)[8]) {
  float squares[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) squares[i] = x[i] * x[i];
  return sum_tree<8>(squares);
}

/// A row from its stage, with signs, after the butterflies of its chunks. Returns the sum of its squares.
template <class K>
__device__ __forceinline__ float read_row(DType dtype, const std::uint8_t* row, const std::uint32_t* signs, LaneRow& x) {
  float terms[kRowChunks];
#pragma unroll
  for (int c = 0; c < kRowChunks; ++c) {
    const uint4 low = reinterpret_cast<const uint4*>(signs)[2 * c], high = reinterpret_cast<const uint4*>(signs)[2 * c + 1];
    const std::uint32_t sign[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    read_chunk<K>(dtype, row, c, sign, x[c]);
    terms[c] = sum_chunk(x[c]);
    transform_chunk(x[c]);
  }
  return sum_row_chunks(terms);
}

/// Codes of a row, and the factor on its norm.
template <class K>
__device__ __forceinline__ float code_row(const LaneRow& x, float scale, const float* signs, float magic, std::uint32_t origin,
                                          const float* levels, std::uint32_t (&words)[K::kWords]) {
  [[maybe_unused]] float energies[kRowChunks], products[kRowChunks];
#pragma unroll
  for (int w = 0; w < K::kWords; ++w) words[w] = 0;
#pragma unroll
  for (int c = 0; c < kRowChunks; ++c) {
    float sign[8];
    load_eight(signs + 8 * c, sign);
    std::uint32_t bits = 0;
    [[maybe_unused]] float energy[8], product[8];
#pragma unroll
    for (int e = 7; e >= 0; --e) {
      const float y = x[c][e] * scale;
      const std::uint32_t code = push_code<K::kBits, 1>(0, y, sign[e], magic, origin);
      bits = (bits << K::kBits) + code;
      if constexpr (K::kMode != NormMode::kRaw) {
        const float level = levels[code];
        energy[e] = level * level;
        product[e] = (y * sign[e]) * level;
      }
    }
    const int at = 8 * K::kBits * c;
    words[at / 32] |= bits << (at % 32);
    if (at % 32 + 8 * K::kBits > 32) words[at / 32 + 1] |= bits >> (32 - at % 32);
    if constexpr (K::kMode != NormMode::kRaw) energies[c] = sum_tree<8>(energy);
    if constexpr (K::kMode == NormMode::kLeastSquares) products[c] = sum_tree<8>(product);
  }
  if constexpr (K::kMode == NormMode::kRaw) return 1.0f;
  const float energy = sum_row_chunks(energies);
  if constexpr (K::kMode == NormMode::kCorrected) return energy > 0.0f ? 1.0f / math::square_root(energy) : 1.0f;
  const float product = sum_row_chunks(products);
  return product > 0.0f ? product / energy : 0.0f;
}

/// The words of 32 rows to device memory, where they are contiguous; `mine` is this lane's place among them in shared memory.
template <class K>
__device__ __forceinline__ void write_codes(const std::uint32_t (&words)[K::kWords], std::uint32_t* shared, std::uint8_t* to, int lane) {
  std::uint32_t* mine = shared + lane * K::kWords;
  constexpr int kStep = K::kWords % 4 == 0 ? 4 : K::kWords % 2 == 0 ? 2 : 1;
#pragma unroll
  for (int i = 0; i < K::kWords; i += kStep) {
    if constexpr (kStep == 4) {
      *reinterpret_cast<uint4*>(mine + i) = make_uint4(words[i], words[i + 1], words[i + 2], words[i + 3]);
    } else if constexpr (kStep == 2) {
      *reinterpret_cast<uint2*>(mine + i) = make_uint2(words[i], words[i + 1]);
    } else {
      mine[i] = words[i];
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = lane; i < 8 * K::kWords; i += 32) reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(shared)[i];
  __syncwarp();
}

// ---- The kernel.

template <class K>
__global__ void __launch_bounds__(32 * kLaneRowWarps, 16 / kLaneRowWarps)
    encode_lane_rows(const __grid_constant__ EncodeArgs args, const __grid_constant__ TileCodebook table,
                     unsigned long long* first_refused) {
  extern __shared__ __align__(128) std::uint8_t buffers[];  // a stage a warp: it is free while its rows, in registers, are coded
  __shared__ alignas(16) std::uint32_t shared_codes[kLaneRowWarps][32 * K::kWords];
  __shared__ alignas(16) std::uint32_t signs1[kLaneRowDim];
  __shared__ alignas(16) float signs2[kLaneRowDim];
  __shared__ alignas(8) std::uint64_t barriers[kLaneRowWarps];
  __shared__ SharedBins<K::kBits, 1> bins;
  __shared__ PlainCodebook codebook;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const DType dtype = K::kBf16 ? DType::kBf16 : args.dtype;
  const int row_bytes = kLaneRowDim * element_bytes(dtype), stage_bytes = kLaneRows * (row_bytes + 16);
  const TileStages<1> stages(buffers + warp * stage_bytes, &barriers[warp], stage_bytes, lane);
  const int count = static_cast<int>(args.count), tiles = (count + kLaneRows - 1) / kLaneRows;
  const int step = static_cast<int>(gridDim.x) * kLaneRowWarps;
  const auto start = [&](int tile) {
    const int rows = tile < tiles ? min(kLaneRows, count - tile * kLaneRows) : 0;
    stages.start_rows(0, args.rows + static_cast<std::int64_t>(tile) * (kLaneRows * row_bytes), row_bytes, rows);
  };
  int tile = static_cast<int>(blockIdx.x) * kLaneRowWarps + warp;
  start(tile);

  bins.fill(table, thread, 32 * kLaneRowWarps);
  if (thread < 1 << K::kBits) {
    codebook.edges[thread] = table.edges[thread];
    codebook.levels[thread] = table.levels[thread];
  }
  for (int i = thread; i < kLaneRowDim; i += 32 * kLaneRowWarps) {
    signs1[i] = args.rotation.signs1[i];
    signs2[i] = sign_of(args.rotation.signs2[i]);
  }
  const bool known = has_hadamard12(args.rotation.matrix, thread, 32 * kLaneRowWarps);  // and a barrier
  const float magic = table.magic;
  const std::uint32_t origin = bins.origin(magic);

  for (int phase = 0; tile < tiles; tile += step, phase ^= 1) {
    stages.wait(0, phase);
    LaneRow x;
    const float squares = read_row<K>(dtype, stages.stage(0) + lane * (row_bytes + 16), signs1, x);
    __syncwarp();
    start(tile + step);
    const int row = tile * kLaneRows + lane;
    const bool usual = squares > 0x1p-80f && squares < __int_as_float(0x7f800000);
    if (!known || (tile + 1) * kLaneRows > count || __any_sync(0xffffffffu, !usual)) {
      if (row < count) encode_plain_row<K::kBits>(args, codebook.edges, codebook.levels, row, first_refused);
      __syncwarp();
      continue;
    }
    mix_twelve<false>(x);
    const float norm = math::square_root(squares);
    std::uint32_t words[K::kWords];
    const float factor = code_row<K>(x, args.rotation.scale / norm, signs2, magic, origin, codebook.levels, words);
    write_codes<K>(words, shared_codes[warp], args.codes + static_cast<std::int64_t>(tile) * (4 * kLaneRows * K::kWords), lane);
    const math::EncodedRow<float> result = math::store_norm(norm * factor, 0, args.rule.f16);
    args.norms[row] = result.norm;
    if (result.refused != 0) atomicMin(first_refused, static_cast<unsigned long long>(row));
  }
}

// ---- The launcher.

template <class K>
void launch(const EncodeArgs& args, const TileCodebook& codebook, unsigned long long* first_refused) {
  const auto kernel = encode_lane_rows<K>;
  const TileLaunch launch = lane_row_launch(args.dtype, args.count);
  const int resident = resident_blocks(reinterpret_cast<const void*>(kernel), launch.threads, launch.shared_bytes);
  kernel<<<launch.blocks(resident), launch.threads, static_cast<std::size_t>(launch.shared_bytes)>>>(args, codebook, first_refused);
  check_cuda(cudaGetLastError(), "starting to encode");
}

template <int Bits, NormMode Mode>
void choose_type(const EncodeArgs& args, const TileCodebook& codebook, unsigned long long* first_refused) {
  if (args.dtype == DType::kBf16) return launch<LaneKind<Bits, Mode, true>>(args, codebook, first_refused);
  launch<LaneKind<Bits, Mode, false>>(args, codebook, first_refused);
}

template <int Bits>
void choose_mode(const EncodeArgs& args, const TileCodebook& codebook, unsigned long long* first_refused) {
  switch (args.rule.mode) {
    case NormMode::kRaw: return choose_type<Bits, NormMode::kRaw>(args, codebook, first_refused);
    case NormMode::kCorrected: return choose_type<Bits, NormMode::kCorrected>(args, codebook, first_refused);
    case NormMode::kLeastSquares: return choose_type<Bits, NormMode::kLeastSquares>(args, codebook, first_refused);
  }
}

}  // namespace

void encode_rows_96(const EncodeArgs& args, const TileCodebook& codebook, unsigned long long* first_refused) {
  switch (args.codebook->bits) {
    case 2: return choose_mode<2>(args, codebook, first_refused);
    case 3: return choose_mode<3>(args, codebook, first_refused);
    default: choose_mode<4>(args, codebook, first_refused);
  }
}

}  // namespace tq::cuda
