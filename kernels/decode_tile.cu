// Decode on the GPU, fast: the mirror of encode_tile.cu, for the same dims, bits and rotations. A warp works on a tile (gpu_tile.h)
// at a time: codes come in one tile ahead, in registers; levels and first butterflies by chunk; the other butterflies, scale and
// signs by column; rows leave through shared memory, 16 bytes a lane.
//
// Levels are looked up two at a time: a table of all pairs of codes, 16 copies of it, so that no two lanes of an access meet in a
// bank. It takes 32 KB of shared memory at 4 bits, once a block. Tiles with a norm of infinity go to the plain code.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "kernels/cuda_check.h"
#include "kernels/gpu_plain.h"
#include "kernels/gpu_tile.h"

namespace tq::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kCopies = 16;

// ---- Helpers.

/// The codes of this lane's chunks, 8 Bits bits each; 0 past the last row.
template <class T, int Bits>
__device__ __forceinline__ void load_codes(const DecodeArgs& args, std::int64_t tile, int lane,
                                           std::uint32_t (&codes)[T::kPerLane]) {
  const int left = chunks_left<T>(args.count, tile, lane);
  const std::uint8_t* from = args.codes + (tile * kTileChunks + lane) * Bits;
  const int ahead = static_cast<int>(reinterpret_cast<std::uintptr_t>(from) & 3);
  const auto* words = reinterpret_cast<const std::uint32_t*>(from - ahead);
#pragma unroll
  for (int i = 0; i < T::kPerLane; ++i) {
    codes[i] = 0;
    if (32 * i >= left) continue;
    if constexpr (Bits == 4) {
      codes[i] = words[32 * i];
    } else if constexpr (Bits == 2) {
      codes[i] = reinterpret_cast<const std::uint16_t*>(from)[32 * i];
    } else {  // three bytes, of one word or two; 96 bytes from chunk to chunk
      codes[i] = __funnelshift_r(words[24 * i], words[24 * i + (ahead >= 2 ? 1 : 0)], 8 * ahead);
    }
  }
}

/// Two floats of the table of pairs; `place` is a pair's number times 128, plus this lane's copy.
__device__ __forceinline__ float2 load_pair(std::uint32_t address) {
  float2 pair;
  asm("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(pair.x), "=f"(pair.y) : "r"(address));
  return pair;
}

template <int Bits>
__device__ __forceinline__ void look_up_chunk(std::uint32_t codes, std::uint32_t copy, float (&x)[8]) {
  constexpr std::uint32_t kMask = ((1u << (2 * Bits)) - 1) << 7;
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    const int shift = 2 * Bits * p - 7;
    const std::uint32_t moved = shift >= 0 ? codes >> (shift >= 0 ? shift : 0) : codes << (shift >= 0 ? 0 : -shift);
    const float2 pair = load_pair((moved & kMask) + copy);
    x[2 * p] = pair.x;
    x[2 * p + 1] = pair.y;
  }
}

/// Two values as a word of BF16 or F16, rounded to nearest even.
__device__ __forceinline__ std::uint32_t round_pair(DType dtype, float low, float high) {
  std::uint32_t word;
  if (dtype == DType::kBf16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    memcpy(&word, &pair, 4);
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    memcpy(&word, &pair, 4);
  }
  return word;
}

// By column: v times `scale`, with the signs, to shared memory in the type of the rows. keep is all ones, or 0 for a row of norm 0.
// Rows of 16 bits are 4 words apart beyond their length, which again keeps the lanes in different banks.
template <class T>
struct Halves {
  static constexpr int kPitch = T::kDim / 2 + 4;  ///< words from row to row
};

template <class T>
__device__ __forceinline__ void write_halves(DType dtype, const float (&v)[T::kChunks][T::kWidth], float scale,
                                             std::uint32_t signs, std::uint32_t keep, std::uint32_t* row, int m) {
  // Bit c * kWidth + j of `signs`: the sign of element j of chunk c.
#pragma unroll
  for (int c = 0; c < T::kChunks; ++c) {
    if constexpr (T::kWidth == 1) {
      if (c % 2 != 0) continue;
      const std::uint32_t flip = ((signs >> c & 1) << 15) | ((signs >> (c + 1) & 1) << 31);
      const std::uint32_t word = (round_pair(dtype, v[c][0] * scale, v[c + 1][0] * scale) ^ flip) & keep;
      auto* halves = reinterpret_cast<std::uint16_t*>(row);
      halves[8 * c + m] = static_cast<std::uint16_t>(word);
      halves[8 * (c + 1) + m] = static_cast<std::uint16_t>(word >> 16);
    } else {
      std::uint32_t words[T::kWidth / 2];
#pragma unroll
      for (int j = 0; j < T::kWidth; j += 2) {
        const int bit = c * T::kWidth + j;
        const std::uint32_t flip = ((signs >> bit & 1) << 15) | ((signs >> (bit + 1) & 1) << 31);
        words[j / 2] = (round_pair(dtype, v[c][j] * scale, v[c][j + 1] * scale) ^ flip) & keep;
      }
      std::uint32_t* to = row + 4 * c + T::kWidth / 2 * m;
      if constexpr (T::kWidth == 4) {
        *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
      } else {
        *to = words[0];
      }
    }
  }
}

template <class T>
__device__ __forceinline__ void write_floats(const float (&v)[T::kChunks][T::kWidth], float scale, std::uint32_t signs,
                                             std::uint32_t keep, float* row, int m) {
#pragma unroll
  for (int c = 0; c < T::kChunks; ++c) {
    float out[T::kWidth];
#pragma unroll
    for (int j = 0; j < T::kWidth; ++j) {
      const std::uint32_t flip = (signs >> (c * T::kWidth + j)) << 31;
      out[j] = __uint_as_float((__float_as_uint(v[c][j] * scale) ^ flip) & keep);
    }
    store_width<T::kWidth>(row + place_of(c, T::kWidth * m), out);
  }
}

/// By chunk: a tile from shared memory to the rows.
template <class T>
__device__ __forceinline__ void write_rows(const DecodeArgs& args, std::int64_t number, int lane, const float* tile) {
  const int left = chunks_left<T>(args.count, number, lane);
  const std::int64_t first = number * kTileChunks + lane;
#pragma unroll
  for (int i = 0; i < T::kPerLane; ++i) {
    if (32 * i >= left) break;
    const int tile_row = (lane + 32 * i) / T::kChunks, c = (lane + 32 * i) % T::kChunks;
    if (args.dtype == DType::kF32) {
      float x[8];
      load_chunk(tile + tile_row * T::kPitch, c, x);
      float4* to = reinterpret_cast<float4*>(args.rows) + (first + 32 * i) * 2;
      to[0] = make_float4(x[0], x[1], x[2], x[3]);
      to[1] = make_float4(x[4], x[5], x[6], x[7]);
    } else {
      const auto* from = reinterpret_cast<const std::uint32_t*>(tile) + tile_row * Halves<T>::kPitch + 4 * c;
      reinterpret_cast<uint4*>(args.rows)[first + 32 * i] = *reinterpret_cast<const uint4*>(from);
    }
  }
}

// ---- The kernel.

template <class T, int Bits>
__global__ void __launch_bounds__(32 * kWarps, 2)
    decode_tiles(const __grid_constant__ DecodeArgs args, const __grid_constant__ Codebook table) {
  extern __shared__ __align__(128) float2 pairs[];  // [4^Bits][kCopies], then the tiles
  __shared__ Codebook codebook;
  for (int i = static_cast<int>(threadIdx.x); i < (1 << Bits); i += 32 * kWarps) codebook.levels[i] = table.levels[i];
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < (kCopies << (2 * Bits)); i += 32 * kWarps) {
    const int codes = i / kCopies;
    pairs[i] = make_float2(codebook.levels[codes & ((1 << Bits) - 1)], codebook.levels[codes >> Bits]);
  }
  __syncthreads();

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int tile_row = lane / T::kLanesPerRow, m = lane % T::kLanesPerRow;
  float* tile = reinterpret_cast<float*>(pairs + (kCopies << (2 * Bits))) + warp * T::kFloats;
  const std::uint32_t copy =
      static_cast<std::uint32_t>(__cvta_generic_to_shared(pairs)) + static_cast<std::uint32_t>(lane % kCopies * 8);

  float signs2[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) signs2[i] = sign_of(args.rotation.signs2[lane % T::kChunks * 8 + i]);
  std::uint32_t signs1 = 0;
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    signs1 |= args.rotation.signs1[i / T::kWidth * 8 + T::kWidth * m + i % T::kWidth] >> 31 << i;
  }

  const std::int64_t count = (args.count + T::kRows - 1) / T::kRows;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kWarps;
  std::int64_t number = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp;
  if (number >= count) return;
  std::uint32_t codes[T::kPerLane];
  load_codes<T, Bits>(args, number, lane, codes);
  float norm = args.norms[min(number * T::kRows + tile_row, args.count - 1)];
  for (; number < count; number += step) {
#pragma unroll
    for (int i = 0; i < T::kPerLane; ++i) {
      const int chunk = lane + 32 * i;
      float x[8];
      look_up_chunk<Bits>(codes[i], copy, x);
      transform_chunk(x, signs2);
      store_chunk(tile + chunk / T::kChunks * T::kPitch, chunk % T::kChunks, x);
    }
    const float own_norm = norm;
    const std::int64_t first_row = number * T::kRows;
    if (number + step < count) {
      load_codes<T, Bits>(args, number + step, lane, codes);
      norm = args.norms[min(first_row + step * T::kRows + tile_row, args.count - 1)];
    }
    __syncwarp();
    if (__any_sync(0xffffffffu, own_norm == __int_as_float(0x7f800000))) {
      if (lane < T::kRows && first_row + lane < args.count) decode_plain_row<Bits>(args, codebook, first_row + lane);
      __syncwarp();
      continue;
    }

    float v[T::kChunks][T::kWidth];
    load_columns<T>(tile + tile_row * T::kPitch, m, v);
    transform_columns<T>(v);
    const float scale = own_norm * args.rotation.scale;
    const std::uint32_t keep = own_norm > 0.0f ? 0xffffffffu : 0u;
    __syncwarp();
    if (args.dtype == DType::kF32) {
      write_floats<T>(v, scale, signs1, keep, tile + tile_row * T::kPitch, m);
    } else {
      write_halves<T>(args.dtype, v, scale, signs1, keep,
                      reinterpret_cast<std::uint32_t*>(tile) + tile_row * Halves<T>::kPitch, m);
    }
    __syncwarp();
    write_rows<T>(args, number, lane, tile);
    __syncwarp();
  }
}

// ---- The launcher.

template <class T, int Bits>
void launch_tiles(const DecodeArgs& args) {
  const auto kernel = decode_tiles<T, Bits>;
  constexpr int kShared = static_cast<int>(sizeof(float2)) * (kCopies << (2 * Bits)) + kWarps * T::kFloats * 4;
  const std::int64_t tiles = (args.count + T::kRows - 1) / T::kRows;
  const int resident = resident_blocks(reinterpret_cast<const void*>(kernel), 32 * kWarps, kShared);
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>((tiles + kWarps - 1) / kWarps, resident));
  kernel<<<blocks, 32 * kWarps, kShared>>>(args, *args.codebook);
  check_cuda(cudaGetLastError(), "starting to decode");
}

template <class T>
void choose_bits(const DecodeArgs& args) {
  switch (args.codebook->bits) {
    case 2: return launch_tiles<T, 2>(args);
    case 3: return launch_tiles<T, 3>(args);
    default: return launch_tiles<T, 4>(args);
  }
}

}  // namespace

bool decode_tile_rows(const DecodeArgs& args) {
  if (!has_tiles(args.rotation, args.codebook->bits, args.rows, args.codes)) return false;
  switch (args.rotation.dim) {
    case 64: choose_bits<Tile<8>>(args); break;
    case 128: choose_bits<Tile<16>>(args); break;
    default: choose_bits<Tile<32>>(args);
  }
  return true;
}

}  // namespace tq::cuda
