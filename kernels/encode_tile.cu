// Encode on the GPU, fast: dims 64, 128 and 256, 2, 3 and 4 bits, Sylvester rotations. A warp works on a tile (gpu_tile.h) at a
// time: rows come in by asynchronous copies, one tile ahead; norm and first butterflies by chunk; the other butterflies, codes and
// norm factor by column; codes leave 8 to 16 bytes a lane.
//
// Codes are found by bins (gpu_bins.h). What these do not serve, the launcher leaves to the plain kernel. Rows that are not finite, or
// whose squares leave float32's range, are coded by a call in the kernel.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "kernels/cuda_check.h"
#include "kernels/gpu_bins.h"
#include "kernels/gpu_plain.h"
#include "kernels/gpu_tile.h"

namespace tq::cuda {
namespace {

constexpr int kWarps = 4;
// ---- Helpers.

template <class T>
struct Shared {
  float tile[T::kFloats];
  alignas(16) float sums[T::kRows * T::kChunks];
};

__device__ __forceinline__ void copy_16_async(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(shared))),
               "l"(global));
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;"); }
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

/// Starts copying a tile into `stage`. What is past the last row stays as it is.
template <class T>
__device__ __forceinline__ void start_copy(const EncodeArgs& args, std::int64_t tile, int lane, std::uint8_t* stage) {
  const int chunk_bytes = args.dtype == DType::kF32 ? 32 : 16;
  const int left = chunks_left<T>(args.count, tile, lane);
  const std::uint8_t* from = args.rows + (tile * kTileChunks + lane) * chunk_bytes;
  stage += lane * chunk_bytes;
#pragma unroll
  for (int i = 0; i < T::kPerLane; ++i) {
    if (32 * i >= left) break;
    copy_16_async(stage + 32 * i * chunk_bytes, from + 32 * i * chunk_bytes);
    if (chunk_bytes == 32) copy_16_async(stage + 32 * i * 32 + 16, from + 32 * i * 32 + 16);
  }
  commit_copies();
}

__device__ __forceinline__ void read_chunk(DType dtype, const std::uint8_t* stage, int chunk, float (&x)[8]) {
  if (dtype == DType::kF32) {
    const float4* from = reinterpret_cast<const float4*>(stage) + 2 * chunk;
    const float4 low = from[0], high = from[1];
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
    x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
    return;
  }
  const uint4 words = reinterpret_cast<const uint4*>(stage)[chunk];
  const std::uint32_t w[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (dtype == DType::kBf16) {
      x[2 * i] = __uint_as_float(w[i] << 16);
      x[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
    } else {
      const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&w[i]));
      x[2 * i] = pair.x;
      x[2 * i + 1] = pair.y;
    }
  }
}

/// By chunk: sums of squares, butterflies of strides 1, 2, 4, into shared memory.
template <class T>
__device__ __forceinline__ void transform_by_chunk(DType dtype, const std::uint8_t* stage, int lane, const float (&sign)[8],
                                                   Shared<T>& shared) {
#pragma unroll
  for (int i = 0; i < T::kPerLane; ++i) {
    const int chunk = lane + 32 * i;
    float x[8];
    read_chunk(dtype, stage, chunk, x);
    shared.sums[chunk] = ((x[0] * x[0] + x[1] * x[1]) + (x[2] * x[2] + x[3] * x[3])) +
                         ((x[4] * x[4] + x[5] * x[5]) + (x[6] * x[6] + x[7] * x[7]));
    transform_chunk(x, sign);
    store_chunk(shared.tile + chunk / T::kChunks * T::kPitch, chunk % T::kChunks, x);
  }
}

/// The codes of a lane: nibbles (kWidth 1) or pairs in a byte, four chunks after each other.
template <class T>
struct LaneCodes {
  static constexpr int kShares = T::kChunks / 4;
  using Share = std::conditional_t<T::kWidth == 4, uint2, std::conditional_t<T::kWidth == 2, std::uint32_t, std::uint16_t>>;
  Share share[kShares];
};

/// Four chunks' codes of all lanes of a row, as LaneCodes has them, 16 bytes -> the words of the four chunks, Bits bytes each.
template <class T, int Bits>
__device__ __forceinline__ void gather_chunks(uint4 from, std::uint32_t (&words)[4]) {
  const std::uint32_t w[4] = {from.x, from.y, from.z, from.w};
  std::uint32_t pairs[4];  // 4 bytes of 2 Bits bits each, one a chunk
  if constexpr (T::kWidth == 4) {
#pragma unroll
    for (int k = 0; k < 4; ++k) pairs[k] = __byte_perm(w[k / 2], w[2 + k / 2], k % 2 == 0 ? 0x5410 : 0x7632);
  } else if constexpr (T::kWidth == 2) {
    const std::uint32_t a = __byte_perm(w[0], w[1], 0x5140), b = __byte_perm(w[2], w[3], 0x5140);
    const std::uint32_t c = __byte_perm(w[0], w[1], 0x7362), d = __byte_perm(w[2], w[3], 0x7362);
    pairs[0] = __byte_perm(a, b, 0x5410);
    pairs[1] = __byte_perm(a, b, 0x7632);
    pairs[2] = __byte_perm(c, d, 0x5410);
    pairs[3] = __byte_perm(c, d, 0x7632);
  } else {
    // w[i] holds lane 2i in its low half and lane 2i + 1 in its high half, four nibbles each.
    std::uint32_t even[4], odd[4];  // bytes: chunk 0 and 2 (even), 1 and 3 (odd), a pair of lanes each
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t low = w[i] & 0x0f0fu, high = (w[i] >> 16) & 0x0f0fu;
      even[i] = low | (high << Bits);
      const std::uint32_t low_odd = (w[i] >> 4) & 0x0f0fu, high_odd = (w[i] >> 20) & 0x0f0fu;
      odd[i] = low_odd | (high_odd << Bits);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const std::uint32_t(&source)[4] = k % 2 == 0 ? even : odd;
      const unsigned pick = k / 2 == 0 ? 0x0040 : 0x0051;
      pairs[k] = __byte_perm(source[0], source[1], pick) & 0xffffu;
      pairs[k] |= __byte_perm(source[2], source[3], pick) << 16;
    }
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    std::uint32_t v = pairs[k];
    if constexpr (Bits == 3) {
      v = (v & 0x003f003fu) | ((v >> 2) & 0x0fc00fc0u);
      v = (v & 0x00000fffu) | ((v >> 4) & 0x00fff000u);
    } else if constexpr (Bits == 2) {
      v = (v & 0x000f000fu) | ((v >> 4) & 0x00f000f0u);
      v = (v & 0x000000ffu) | ((v >> 8) & 0x0000ff00u);
    }
    words[k] = v;
  }
}

template <int Bits>
__device__ __forceinline__ void write_chunks(const std::uint32_t (&c)[4], std::uint8_t* to) {
  if constexpr (Bits == 4) {
    *reinterpret_cast<uint4*>(to) = make_uint4(c[0], c[1], c[2], c[3]);
  } else if constexpr (Bits == 3) {
    auto* words = reinterpret_cast<std::uint32_t*>(to);
    words[0] = c[0] | (c[1] << 24);
    words[1] = (c[1] >> 8) | (c[2] << 16);
    words[2] = (c[2] >> 16) | (c[3] << 8);
  } else {
    *reinterpret_cast<uint2*>(to) = make_uint2(c[0] | (c[1] << 16), c[2] | (c[3] << 16));
  }
}

/// The pairwise sum over a row of terms that lie by column: terms[c], the tree over a lane's elements of chunk c. Shares of four
/// chunks and rows are padded, so that lanes that write together meet in no bank.
template <class T>
__device__ __forceinline__ float sum_row(const float (&terms)[T::kChunks], float* scratch, int row, int m) {
  constexpr int kLanes = T::kLanesPerRow;
  constexpr int kShare = T::kWidth == 1 ? 4 * kLanes : 4 * kLanes + 4;
  constexpr int kRow = kShare * (T::kChunks / 4) + (T::kWidth == 1 ? 8 : 4);
  static_assert(kRow * T::kRows <= T::kFloats);
  float* mine = scratch + row * kRow;
  __syncwarp();
#pragma unroll
  for (int c = 0; c < T::kChunks; ++c) mine[c / 4 * kShare + c % 4 * kLanes + m] = terms[c];
  __syncwarp();
  float four[4 * kLanes];
#pragma unroll
  for (int i = 0; i < kLanes; ++i) {
    const float4 f = *reinterpret_cast<const float4*>(mine + kShare * m + 4 * i);
    four[4 * i] = f.x, four[4 * i + 1] = f.y, four[4 * i + 2] = f.z, four[4 * i + 3] = f.w;
  }
  float sum = sum_tree<4 * kLanes>(four);
#pragma unroll
  for (int lanes = 1; lanes < kLanes; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  return sum;
}

// ---- The kernel.

template <class T, int Bits, NormMode kMode>
__global__ void __launch_bounds__(32 * kWarps, 4)
    encode_tiles(const __grid_constant__ EncodeArgs args, const __grid_constant__ Codebook table,
                 const __grid_constant__ Bins source, unsigned long long* first_refused) {
  extern __shared__ __align__(16) std::uint8_t stages[];  // two a warp
  __shared__ Shared<T> shared_tiles[kWarps];
  __shared__ SharedBins<Bits> bins;
  __shared__ Codebook codebook;
  bins.fill(source, static_cast<int>(threadIdx.x), 32 * kWarps);
  for (int i = static_cast<int>(threadIdx.x); i < (1 << Bits); i += 32 * kWarps) {
    codebook.edges[i] = table.edges[i];
    codebook.levels[i] = table.levels[i];
  }
  __syncthreads();

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int tile_row = lane / T::kLanesPerRow, m = lane % T::kLanesPerRow;
  Shared<T>& shared = shared_tiles[warp];
  const int stage_bytes = 1024 * (args.dtype == DType::kF32 ? 4 : 2);
  std::uint8_t* stage = stages + 2 * warp * stage_bytes;
  const float magic = source.magic;
  const std::uint32_t origin = bins.origin(magic);

  constexpr bool kFactor = kMode != NormMode::kRaw;
  float signs1[8], signs2[T::kChunks][T::kWidth];
#pragma unroll
  for (int i = 0; i < 8; ++i) signs1[i] = sign_of(args.rotation.signs1[lane % T::kChunks * 8 + i]);
#pragma unroll
  for (int c = 0; c < T::kChunks; ++c) {
#pragma unroll
    for (int j = 0; j < T::kWidth; ++j) signs2[c][j] = sign_of(args.rotation.signs2[8 * c + T::kWidth * m + j]);
  }

  const std::int64_t tiles = (args.count + T::kRows - 1) / T::kRows;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kWarps;
  std::int64_t tile = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp;
  if (tile < tiles) start_copy<T>(args, tile, lane, stage);
  for (int turn = 0; tile < tiles; tile += step, turn ^= 1) {
    wait_for_copies();
    __syncwarp();
    if (tile + step < tiles) start_copy<T>(args, tile + step, lane, stage + (turn ^ 1) * stage_bytes);
    transform_by_chunk<T>(args.dtype, stage + turn * stage_bytes, lane, signs1, shared);
    __syncwarp();

    float v[T::kChunks][T::kWidth];
    load_columns<T>(shared.tile + tile_row * T::kPitch, m, v);
    float partial[T::kChunks];
#pragma unroll
    for (int c = 0; c < T::kChunks; c += 4) {
      const float4 f = *reinterpret_cast<const float4*>(shared.sums + tile_row * T::kChunks + c);
      partial[c] = f.x, partial[c + 1] = f.y, partial[c + 2] = f.z, partial[c + 3] = f.w;
    }
    const float squares = sum_tree<T::kChunks>(partial);
    const bool usual = squares > 0x1p-80f && squares < __int_as_float(0x7f800000);
    const std::int64_t row = tile * T::kRows + tile_row;
    if (__any_sync(0xffffffffu, !usual)) {
      const std::int64_t own = tile * T::kRows + lane;
      if (lane < T::kRows && own < args.count) encode_plain_row<Bits>(args, codebook, own, first_refused);
      __syncwarp();
      continue;
    }
    transform_columns<T>(v);

    const float norm = math::square_root(squares);
    const float scale = args.rotation.scale / norm;
    LaneCodes<T> codes;
    float energy[kFactor ? T::kChunks : 1], products[kFactor ? T::kChunks : 1];
#pragma unroll
    for (int s = LaneCodes<T>::kShares - 1; s >= 0; --s) {
      std::uint32_t packed[2] = {0, 0};
#pragma unroll
      for (int k = 3; k >= 0; --k) {
        const int c = 4 * s + k;
        float squares_of[T::kWidth], products_of[T::kWidth];
#pragma unroll
        for (int j = T::kWidth - 1; j >= 0; --j) {
          const float y = v[c][j] * scale;
          const std::uint32_t code = find_code<Bits>(y, signs2[c][j], magic, origin);
          std::uint32_t& into = packed[T::kWidth == 4 ? k / 2 : 0];
          into = (into << (T::kWidth == 1 ? 4 : j % 2 == 1 ? 8 - Bits : Bits)) + code;
          if constexpr (kFactor) {
            const float level = codebook.levels[code];
            squares_of[j] = level * level;
            if constexpr (kMode == NormMode::kLeastSquares) products_of[j] = (y * signs2[c][j]) * level;
          }
        }
        if constexpr (kFactor) {
          energy[c] = sum_tree<T::kWidth>(squares_of);
          if constexpr (kMode == NormMode::kLeastSquares) products[c] = sum_tree<T::kWidth>(products_of);
        }
      }
      if constexpr (T::kWidth == 4) {
        codes.share[s] = make_uint2(packed[0], packed[1]);
      } else {
        codes.share[s] = static_cast<typename LaneCodes<T>::Share>(packed[0]);
      }
    }

    float stored = norm;
    if constexpr (kFactor) {
      const float levels_energy = sum_row<T>(energy, shared.tile, tile_row, m);
      float factor = 1.0f;
      if constexpr (kMode == NormMode::kCorrected) {
        if (levels_energy > 0.0f) factor = 1.0f / math::square_root(levels_energy);
      } else {
        const float product = sum_row<T>(products, shared.tile, tile_row, m);
        factor = product > 0.0f ? product / levels_energy : 0.0f;
      }
      stored = norm * factor;
    }
    const math::EncodedRow<float> coded = math::store_norm(stored, 0, args.rule.f16);

    using Share = typename LaneCodes<T>::Share;
    Share* exchange = reinterpret_cast<Share*>(shared.sums) + tile_row * (LaneCodes<T>::kShares * T::kLanesPerRow);
    __syncwarp();
#pragma unroll
    for (int s = 0; s < LaneCodes<T>::kShares; ++s) exchange[s * T::kLanesPerRow + m] = codes.share[s];
    __syncwarp();
    std::uint32_t words[4];
    gather_chunks<T, Bits>(*reinterpret_cast<const uint4*>(exchange + m * T::kLanesPerRow), words);
    if (row < args.count) {
      write_chunks<Bits>(words, args.codes + row * (T::kDim * Bits / 8) + m * (4 * Bits));
      if (m == 0) args.norms[row] = coded.norm;
      if (coded.refused != 0 && m == 0) atomicMin(first_refused, static_cast<unsigned long long>(row));
    }
    __syncwarp();
  }
}

// ---- The launcher.

template <class T, int Bits, NormMode kMode>
void launch_tiles(const EncodeArgs& args, const Bins& bins, unsigned long long* first_refused) {
  const auto kernel = encode_tiles<T, Bits, kMode>;
  const int stage_bytes = 2 * kWarps * 1024 * (args.dtype == DType::kF32 ? 4 : 2);
  const int resident = resident_blocks(reinterpret_cast<const void*>(kernel), 32 * kWarps, stage_bytes);
  const std::int64_t tiles = (args.count + T::kRows - 1) / T::kRows;
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>((tiles + kWarps - 1) / kWarps, resident));
  kernel<<<blocks, 32 * kWarps, static_cast<std::size_t>(stage_bytes)>>>(args, *args.codebook, bins, first_refused);
  check_cuda(cudaGetLastError(), "starting to encode");
}

template <class T, int Bits>
void choose_mode(const EncodeArgs& args, const Bins& bins, unsigned long long* first_refused) {
  switch (args.rule.mode) {
    case NormMode::kRaw: return launch_tiles<T, Bits, NormMode::kRaw>(args, bins, first_refused);
    case NormMode::kCorrected: return launch_tiles<T, Bits, NormMode::kCorrected>(args, bins, first_refused);
    default: return launch_tiles<T, Bits, NormMode::kLeastSquares>(args, bins, first_refused);
  }
}

template <class T>
void choose_bits(const EncodeArgs& args, const Bins& bins, unsigned long long* first_refused) {
  switch (args.codebook->bits) {
    case 2: return choose_mode<T, 2>(args, bins, first_refused);
    case 3: return choose_mode<T, 3>(args, bins, first_refused);
    default: return choose_mode<T, 4>(args, bins, first_refused);
  }
}

}  // namespace

bool encode_tile_rows(const EncodeArgs& args, unsigned long long* first_refused) {
  Bins bins;
  if (args.rule.divide_first) return false;
  if (!has_tiles(args.rotation, args.codebook->bits, args.rows, args.codes) || !make_bins(*args.codebook, bins)) return false;
  switch (args.rotation.dim) {
    case 64: choose_bits<Tile<8>>(args, bins, first_refused); break;
    case 128: choose_bits<Tile<16>>(args, bins, first_refused); break;
    default: choose_bits<Tile<32>>(args, bins, first_refused);
  }
  return true;
}

}  // namespace tq::cuda
