// Decode on the GPU, fast: the mirror of encode_tile.cu, for the same dims, bits and rotations. A warp works on a tile (gpu_tile.h)
// at a time: codes come in one tile ahead, in registers; levels and first butterflies by chunk; the other butterflies, scale and
// signs by column; rows leave through shared memory, 16 bytes a lane.
//
// Levels are looked up two at a time: a table of all pairs of codes, 16 copies of it, so that no two lanes of an access meet in a
// bank. It takes 32 KB of shared memory at 4 bits, once a block. Tiles with a norm of infinity go to the plain code.
#include "kernels/cuda_check.h"
#include "kernels/gpu_decode_rows.h"
#include "kernels/gpu_plain.h"
#include "kernels/gpu_tile.h"

namespace tq::cuda {
namespace {

/// What one kernel is made for. BF16 is a constant; F32 and F16 share a kernel.
template <int Chunks, int Bits, bool Bf16>
struct DecodeKind {
  using T = Tile<Chunks>;
  static constexpr int kBits = Bits;
  static constexpr bool kBf16 = Bf16;
};

// ---- Helpers.

/// The codes of this lane's chunks. They are loaded a tile ahead; what needs their values waits until get().
template <class K>
class ChunkCodes {
 public:
  __device__ ChunkCodes(const DecodeArgs& args, int lane)
      : from_(args.codes + lane * K::kBits), ahead_(static_cast<int>(reinterpret_cast<std::uintptr_t>(from_) & 3)), lane_(lane) {}

  /// Of tile `tile` with `rows` rows; chunks past the last row keep what they had.
  __device__ __forceinline__ void load(int tile, int rows) {
    const std::uint8_t* from = from_ + static_cast<std::int64_t>(tile) * (128 * K::kBits);
    const int left = rows * K::T::kChunks - lane_;
    if (rows == K::T::kRows) {
#pragma unroll
      for (int i = 0; i < 4; ++i) load_one(i, from);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (32 * i < left) load_one(i, from);
      }
    }
  }

  /// 8 Bits bits, and above them anything.
  __device__ __forceinline__ std::uint32_t get(int i) const {
    if constexpr (K::kBits != 3) return words_[i][0];
    return __funnelshift_r(words_[i][0], words_[i][K::kBits == 3 ? 1 : 0], 8 * ahead_);
  }

 private:
  __device__ __forceinline__ void load_one(int i, const std::uint8_t* from) {
    if constexpr (K::kBits == 4) {
      words_[i][0] = reinterpret_cast<const std::uint32_t*>(from)[32 * i];
    } else if constexpr (K::kBits == 2) {
      words_[i][0] = reinterpret_cast<const std::uint16_t*>(from)[32 * i];
    } else {  // three bytes, of one word or two; 96 bytes from chunk to chunk
      const auto* words = reinterpret_cast<const std::uint32_t*>(from - ahead_);
      const auto* next = words + (ahead_ >= 2 ? 1 : 0);
      words_[i][0] = words[24 * i];
      words_[i][K::kBits == 3 ? 1 : 0] = next[24 * i];
    }
  }

  const std::uint8_t* from_;
  int ahead_;
  int lane_;
  std::uint32_t words_[4][K::kBits == 3 ? 2 : 1] = {};
};

/// Two floats of the table of pairs; `address` is a pair's number times 128, plus that of this lane's copy.
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

/// Sign bits of a lane's columns. Words of 16-bit rows: both bits of a pair of values, kept where the type is a constant.
template <class K>
class ColumnSigns {
 public:
  using T = typename K::T;

  __device__ ColumnSigns(const std::uint32_t* signs, int m) {
#pragma unroll
    for (int i = 0; i < 32; ++i) bits_ |= signs[i / T::kWidth * 8 + T::kWidth * m + i % T::kWidth] >> 31 << i;
#pragma unroll
    for (int i = 0; i < 16; ++i) flips_[i] = K::kBf16 ? make_flip(i) : 0;
  }

  /// Of value i: element i % kWidth of chunk i / kWidth.
  __device__ __forceinline__ std::uint32_t of(int i) const { return bits_ >> i << 31; }
  /// Of values 2 i and 2 i + 1, in bits 15 and 31.
  __device__ __forceinline__ std::uint32_t of_pair(int i) const { return K::kBf16 ? flips_[i] : make_flip(i); }

 private:
  __device__ __forceinline__ std::uint32_t make_flip(int i) const {
    return ((bits_ >> (2 * i) & 1) << 15) | (bits_ >> (2 * i + 1) << 31);
  }

  std::uint32_t bits_ = 0;
  std::uint32_t flips_[16];
};

// By column: v times `scale`, with the signs, to shared memory in the type of the rows. keep is all ones, or 0 for a row of norm 0.
// Rows of 16 bits are 4 words apart beyond their length, which again keeps the lanes in different banks.
template <class T>
inline constexpr int kHalvesPitch = T::kDim / 2 + 4;  ///< words from row to row

template <class K>
__device__ __forceinline__ void write_halves(DType dtype, const float (&v)[K::T::kChunks][K::T::kWidth], float scale,
                                             const ColumnSigns<K>& signs, std::uint32_t keep, std::uint32_t* row, int m) {
  using T = typename K::T;
#pragma unroll
  for (int c = 0; c < T::kChunks; ++c) {
    if constexpr (T::kWidth == 1) {
      if (c % 2 != 0) continue;
      const std::uint32_t word = (round_pair(dtype, v[c][0] * scale, v[c + 1][0] * scale) ^ signs.of_pair(c / 2)) & keep;
      auto* halves = reinterpret_cast<std::uint16_t*>(row);
      halves[8 * c + m] = static_cast<std::uint16_t>(word);
      halves[8 * (c + 1) + m] = static_cast<std::uint16_t>(word >> 16);
    } else {
      std::uint32_t words[T::kWidth / 2];
#pragma unroll
      for (int j = 0; j < T::kWidth; j += 2) {
        words[j / 2] = (round_pair(dtype, v[c][j] * scale, v[c][j + 1] * scale) ^ signs.of_pair((c * T::kWidth + j) / 2)) & keep;
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

template <class K>
__device__ __forceinline__ void write_floats(const float (&v)[K::T::kChunks][K::T::kWidth], float scale,
                                             const ColumnSigns<K>& signs, std::uint32_t keep,
                                             const LaneColumns<typename K::T>& columns) {
  using T = typename K::T;
#pragma unroll
  for (int c = 0; c < T::kChunks; ++c) {
    float out[T::kWidth];
#pragma unroll
    for (int j = 0; j < T::kWidth; ++j) {
      out[j] = __uint_as_float((__float_as_uint(v[c][j] * scale) ^ signs.of(c * T::kWidth + j)) & keep);
    }
    columns.store(c, out);
  }
}

/// By chunk: a tile from shared memory to its rows.
template <class K>
__device__ __forceinline__ void write_rows(const DecodeArgs& args, DType dtype, int number, int rows, int lane,
                                           const LaneChunks<typename K::T>& chunks, const std::uint32_t* tile) {
  using T = typename K::T;
  const std::int64_t first = static_cast<std::int64_t>(number) * 128 + lane;
  const int left = rows * T::kChunks - lane;
  const std::uint32_t* halves = tile + lane / T::kChunks * kHalvesPitch<T> + 4 * (lane % T::kChunks);
  const auto write_one = [&](int i) {
    if (dtype == DType::kF32) {
      float x[8];
      chunks.load(i, x);
      float4* to = reinterpret_cast<float4*>(args.rows) + (first + 32 * i) * 2;
      to[0] = make_float4(x[0], x[1], x[2], x[3]);
      to[1] = make_float4(x[4], x[5], x[6], x[7]);
    } else {
      const std::uint32_t* from = halves + i * (32 / T::kChunks * kHalvesPitch<T>);
      reinterpret_cast<uint4*>(args.rows)[first + 32 * i] = *reinterpret_cast<const uint4*>(from);
    }
  };
  if (rows == T::kRows) {
#pragma unroll
    for (int i = 0; i < 4; ++i) write_one(i);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (32 * i < left) write_one(i);
    }
  }
}

// ---- The kernel.

template <class K>
__global__ void __launch_bounds__(32 * kDecodeWarps, 2)
    decode_tiles(const __grid_constant__ DecodeArgs args, const __grid_constant__ Codebook table) {
  using T = typename K::T;
  extern __shared__ __align__(128) float2 pairs[];  // [4^Bits][kPairCopies], then the tiles
  __shared__ Codebook codebook;
  for (int i = static_cast<int>(threadIdx.x); i < (1 << K::kBits); i += 32 * kDecodeWarps) codebook.levels[i] = table.levels[i];
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < (kPairCopies << (2 * K::kBits)); i += 32 * kDecodeWarps) {
    const int codes = i / kPairCopies;
    pairs[i] = make_float2(codebook.levels[codes & ((1 << K::kBits) - 1)], codebook.levels[codes >> K::kBits]);
  }
  __syncthreads();

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int tile_row = lane / T::kLanesPerRow, m = lane % T::kLanesPerRow;
  const DType dtype = K::kBf16 ? DType::kBf16 : args.dtype;
  float* tile = reinterpret_cast<float*>(pairs + (kPairCopies << (2 * K::kBits))) + warp * T::kFloats;
  auto* halves = reinterpret_cast<std::uint32_t*>(tile);
  const std::uint32_t copy =
      static_cast<std::uint32_t>(__cvta_generic_to_shared(pairs)) + static_cast<std::uint32_t>(lane % kPairCopies * 8);
  const LaneChunks<T> chunks(tile, lane);
  const LaneColumns<T> columns(tile, lane);
  float signs2[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) signs2[i] = sign_of(args.rotation.signs2[lane % T::kChunks * 8 + i]);
  const ColumnSigns<K> signs1(args.rotation.signs1, m);

  const int rows_in_all = static_cast<int>(args.count), count = (rows_in_all + T::kRows - 1) / T::kRows;
  const int step = static_cast<int>(gridDim.x) * kDecodeWarps;
  const auto rows_of = [&](int tile_number) { return min(T::kRows, rows_in_all - tile_number * T::kRows); };
  int number = static_cast<int>(blockIdx.x) * kDecodeWarps + warp;
  if (number >= count) return;
  ChunkCodes<K> codes(args, lane);
  codes.load(number, rows_of(number));
  float norm = args.norms[min(number * T::kRows + tile_row, rows_in_all - 1)];
  for (; number < count; number += step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float x[8];
      look_up_chunk<K::kBits>(codes.get(i), copy, x);
      transform_chunk(x, signs2);
      chunks.store(i, x);
    }
    const float own_norm = norm;
    const int first_row = number * T::kRows, rows = rows_of(number);
    if (number + step < count) {
      codes.load(number + step, rows_of(number + step));
      norm = args.norms[min(first_row + step * T::kRows + tile_row, rows_in_all - 1)];
    }
    __syncwarp();
    if (__any_sync(0xffffffffu, own_norm == __int_as_float(0x7f800000))) {
      if (lane < rows) decode_plain_row<K::kBits>(args, codebook, first_row + lane);
      __syncwarp();
      continue;
    }

    float v[T::kChunks][T::kWidth];
    columns.load(v);
    transform_columns<T>(v);
    const float scale = own_norm * args.rotation.scale;
    const std::uint32_t keep = own_norm > 0.0f ? 0xffffffffu : 0u;
    __syncwarp();
    if (dtype == DType::kF32) {
      write_floats<K>(v, scale, signs1, keep, columns);
    } else {
      write_halves<K>(dtype, v, scale, signs1, keep, halves + tile_row * kHalvesPitch<T>, m);
    }
    __syncwarp();
    write_rows<K>(args, dtype, number, rows, lane, chunks, halves);
    __syncwarp();
  }
}

// ---- The launcher.

template <class K>
void launch_tiles(const DecodeArgs& args) {
  const auto kernel = decode_tiles<K>;
  const TileLaunch launch = decode_tile_launch(K::T::kDim, K::kBits, args.count);
  const int resident = resident_blocks(reinterpret_cast<const void*>(kernel), launch.threads, launch.shared_bytes);
  kernel<<<launch.blocks(resident), launch.threads, static_cast<std::size_t>(launch.shared_bytes)>>>(args, *args.codebook);
  check_cuda(cudaGetLastError(), "starting to decode");
}

template <int Chunks, int Bits>
void choose_type(const DecodeArgs& args) {
  if (args.dtype == DType::kBf16) return launch_tiles<DecodeKind<Chunks, Bits, true>>(args);
  launch_tiles<DecodeKind<Chunks, Bits, false>>(args);
}

template <int Chunks>
void choose_bits(const DecodeArgs& args) {
  switch (args.codebook->bits) {
    case 2: return choose_type<Chunks, 2>(args);
    case 3: return choose_type<Chunks, 3>(args);
    default: return choose_type<Chunks, 4>(args);
  }
}

}  // namespace

bool decode_tile_rows(const DecodeArgs& args) {
  if (!has_tiles(args.rotation, args.codebook->bits, args.rows, args.codes)) return false;
  switch (args.rotation.dim) {
    case 64: choose_bits<8>(args); break;
    case 96: decode_rows_96(args); break;
    case 128: choose_bits<16>(args); break;
    default: choose_bits<32>(args);
  }
  return true;
}

}  // namespace tq::cuda
