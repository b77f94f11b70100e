// Encode on the GPU, fast: dims 64, 128 and 256, 2, 3 and 4 bits, Sylvester rotations. A warp works on a tile (gpu_tile.h) at a
// time: rows come in two tiles ahead (gpu_stages.h); norm and first butterflies by chunk; the other butterflies, codes and norm
// factor by column; codes leave 8 to 16 bytes a lane.
//
// Codes are found by bins (gpu_bins.h). What these do not serve, the launcher leaves to the plain kernel. Rows that are not finite, or
// whose squares leave float32's range, or that cannot be divided in the fast way, are coded by a call in the kernel: their tile is.
//
// Included by encode_tile_64.cu, _128.cu and _256.cu, so that they compile side by side, and by encode_lane_row.cu for its helpers.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "kernels/cuda_check.h"
#include "kernels/gpu_bins.h"
#include "kernels/gpu_pack_tile.h"
#include "kernels/gpu_plain.h"
#include "kernels/gpu_stages.h"
#include "kernels/gpu_tile.h"

namespace tq::cuda {

// ---- Helpers, by chunk.

/// What one kernel is made for. BF16 is a constant; F32 and F16 share a kernel, which asks for every chunk.
template <int Chunks, int Bits, NormMode Mode, bool DivideFirst, bool Bf16>
struct EncodeKind {
  using T = Tile<Chunks>;
  static constexpr int kBits = Bits;
  static constexpr NormMode kMode = Mode;
  static constexpr bool kFactor = Mode != NormMode::kRaw;
  static constexpr bool kDivideFirst = DivideFirst;
  static constexpr bool kBf16 = Bf16;
};

/// Below this, dividing by a multiplication and a remainder may be off (lib/math/norm.h): divides_quickly()'s limit. Half of it would do,
/// for rows are shorter than 2^63 here.
inline constexpr float kLeastDividend = 0x1p-62f;

/// Whether a value that went in may be too small to divide so: it also says yes to zeros.
template <bool kBf16>
class MaybeSmall {
 public:
  __device__ __forceinline__ void add_pair(std::uint32_t word) {
#if __CUDA_ARCH__ >= 900
    least_pair_ = __viaddmin_u16x2(word, word, least_pair_);  // one instruction: doubled, a value has lost its sign
#else
    least_pair_ = __vminu2((word & 0x7fff7fffu) << 1, least_pair_);
#endif
  }
  __device__ __forceinline__ void add(float x) { least_ = fminf(least_, fabsf(x)); }
  __device__ __forceinline__ bool get() const {
    if constexpr (!kBf16) return least_ < kLeastDividend;
    const std::uint32_t limit = __float_as_uint(kLeastDividend) >> 15;
    return (least_pair_ & 0xffffu) < limit || (least_pair_ >> 16) < limit;
  }

 private:
  std::uint32_t least_pair_ = 0xffffffffu;
  float least_ = 1.0f;
};

/// A chunk from a stage, with its signs (0 or 0x80000000): squares and quotients do not see them, and zeros have none that counts.
template <class K>
__device__ __forceinline__ void read_chunk(DType dtype, const std::uint8_t* stage, int chunk, const std::uint32_t (&sign)[8],
                                           float (&x)[8], MaybeSmall<K::kBf16>& small) {
  if (!K::kBf16 && dtype == DType::kF32) {
    const float4* from = reinterpret_cast<const float4*>(stage) + 2 * chunk;
    const float4 low = from[0], high = from[1];
    const float f[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = __uint_as_float(__float_as_uint(f[i]) ^ sign[i]);
  } else {
    const uint4 words = reinterpret_cast<const uint4*>(stage)[chunk];
    const std::uint32_t w[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (K::kBf16) {
        x[2 * i] = __uint_as_float((w[i] << 16) + sign[2 * i]);
        x[2 * i + 1] = __uint_as_float((w[i] & 0xffff0000u) ^ sign[2 * i + 1]);
        if constexpr (K::kDivideFirst) small.add_pair(w[i]);
      } else {
        const std::uint32_t word = w[i] ^ (sign[2 * i] >> 16) ^ sign[2 * i + 1];
        const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&word));
        x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
      }
    }
  }
  if constexpr (K::kDivideFirst && !K::kBf16) {
#pragma unroll
    for (int i = 0; i < 8; ++i) small.add(x[i]);
  }
}

/// The sum of a chunk's squares, as a pairwise tree. `exact`: the products are, so one need not be rounded before the sum.
template <bool exact>
__device__ __forceinline__ float sum_chunk(const float (&x)[8]) {
  float pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float first = x[2 * i] * x[2 * i], b = x[2 * i + 1];
    pairs[i] = exact ? __fmaf_rn(b, b, first) : first + b * b;
  }
  return (pairs[0] + pairs[1]) + (pairs[2] + pairs[3]);
}

/// x := x / length with the correctly rounded reciprocal: lib/math's QuickDivision.
__device__ __forceinline__ void divide_chunk(float (&x)[8], float length, float reciprocal) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float quotient = x[i] * reciprocal;
    x[i] = __fmaf_rn(__fmaf_rn(-quotient, length, x[i]), reciprocal, quotient);
  }
}

/// What is known of a row before its butterflies.
struct TileNorm {
  float value;   ///< the norm of the row of lane_of_sum(), or where nothing is divided its square
  bool usual;    ///< of this row: its squares are within float32's range, far enough for the fast way
  bool small;    ///< of this lane's values: MaybeSmall
};

/// A tile from its stage into shared memory: squares, the division where it comes first, butterflies of strides 1, 2, 4.
template <class K>
__device__ __forceinline__ TileNorm transform_by_chunk(DType dtype, const std::uint8_t* stage, int lane,
                                                       const std::uint32_t (&sign)[8],
                                                       const LaneChunks<typename K::T>& chunks) {
  using T = typename K::T;
  float terms[4];
  MaybeSmall<K::kBf16> small;
  if constexpr (K::kDivideFirst) {
    float x[4][8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      read_chunk<K>(dtype, stage, lane + 32 * i, sign, x[i], small);
      terms[i] = sum_chunk<K::kBf16>(x[i]);  // of values that are not too small, products of two BF16 are exact
    }
    const float squares = sum_chunks<T>(terms, lane);
    const float length = math::square_root(squares);
    const float reciprocal = 1.0f / length;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int holder = lane / T::kChunks * T::kChunks + i;
      divide_chunk(x[i], __shfl_sync(0xffffffffu, length, holder), __shfl_sync(0xffffffffu, reciprocal, holder));
      transform_chunk(x[i]);
      chunks.store(i, x[i]);
    }
    return {length, squares > 0x1p-80f && squares < 0x1p126f, small.get()};
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float x[8];
      read_chunk<K>(dtype, stage, lane + 32 * i, sign, x, small);
      terms[i] = sum_chunk<false>(x);
      transform_chunk(x);
      chunks.store(i, x);
    }
    const float squares = sum_chunks<T>(terms, lane);
    return {squares, squares > 0x1p-80f && squares < __int_as_float(0x7f800000), false};
  }
}

/// Whether a row of the tile holds a value, not 0, that is too small to divide in the fast way. For tiles that hold a small value or a
/// zero: all lanes look at the rows once more.
template <class K>
__device__ __noinline__ bool holds_small(const EncodeArgs& args, std::int64_t first_row, int lane) {
  const std::int64_t first = first_row * K::T::kDim, last = min(args.count * K::T::kDim, first + kTileElements);
  bool found = false;
  for (std::int64_t i = first + lane; i < last; i += 32) {
    float x;
    load_row(K::kBf16 ? DType::kBf16 : args.dtype, args.rows + i * element_bytes(args.dtype), 1, &x);
    found |= fabsf(x) < kLeastDividend && x != 0.0f;
  }
  return __any_sync(0xffffffffu, found);
}

// ---- Helpers, by column.

/// The codes of a lane's columns, and for least-squares norms <y, c> over the lane's elements of each chunk.
template <class K>
struct CodedColumns {
  LaneCodes<typename K::T> codes;
  float products[K::kMode == NormMode::kLeastSquares ? K::T::kChunks : 1];
};

template <class K>
__device__ __forceinline__ void code_columns(const float (&v)[K::T::kChunks][K::T::kWidth], float scale,
                                             const float (&sign)[K::T::kChunks][K::T::kWidth], float magic, std::uint32_t origin,
                                             [[maybe_unused]] const float* levels, CodedColumns<K>& coded) {
  using T = typename K::T;
#pragma unroll
  for (int c = T::kChunks - 1; c >= 0; --c) {
    [[maybe_unused]] float products_of[T::kWidth];
#pragma unroll
    for (int j = T::kWidth - 1; j >= 0; --j) {
      const float y = K::kDivideFirst ? v[c][j] : v[c][j] * scale;  // of quotients the limits know the scale
      const std::uint32_t code = find_code<K::kBits>(y, sign[c][j], magic, origin);
      coded.codes.template push<K::kBits>(c, j, code);
      if constexpr (K::kMode == NormMode::kLeastSquares) products_of[j] = (y * sign[c][j]) * levels[code];
    }
    if constexpr (K::kMode == NormMode::kLeastSquares) coded.products[c] = sum_tree<T::kWidth>(products_of);
  }
}

/// What the norm of a row is multiplied with, from the energy of its levels.
template <class K>
__device__ __forceinline__ float norm_factor(const CodedColumns<K>& coded, float energy, float* scratch, int row, int m) {
  if constexpr (K::kMode == NormMode::kCorrected) {
    return energy > 0.0f ? 1.0f / math::square_root(energy) : 1.0f;
  } else {
    const float product = sum_row<typename K::T>(coded.products, scratch, row, m);
    return product > 0.0f ? product / energy : 0.0f;
  }
}

// ---- The kernel.

template <class T>
struct EncodeShared {
  float tile[T::kFloats];
  alignas(16) std::uint32_t codes[CodeExchange<T>::kWords];
  alignas(8) std::uint64_t barriers[2];
};

template <class K>
__global__ void __launch_bounds__(32 * kEncodeWarps, 4)
    encode_tiles(const __grid_constant__ EncodeArgs args, const __grid_constant__ TileCodebook table,
                 unsigned long long* first_refused) {
  using T = typename K::T;
  extern __shared__ __align__(128) std::uint8_t buffers[];  // two stages a warp
  __shared__ EncodeShared<T> shared_warps[kEncodeWarps];
  __shared__ SharedBins<K::kBits> bins;
  __shared__ Codebook codebook;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int tile_row = lane / T::kLanesPerRow, m = lane % T::kLanesPerRow;
  const DType dtype = K::kBf16 ? DType::kBf16 : args.dtype;
  const int row_bytes = T::kDim * element_bytes(dtype), tile_bytes = kTileElements * element_bytes(dtype);
  EncodeShared<T>& shared = shared_warps[warp];
  const TileStages<2> stages(buffers + 2 * warp * tile_bytes, shared.barriers, tile_bytes, lane);
  const int count = static_cast<int>(args.count), tiles = (count + T::kRows - 1) / T::kRows;
  const int step = static_cast<int>(gridDim.x) * kEncodeWarps;
  const auto start = [&](int tile, int turn) {
    const int rows = tile < tiles ? min(T::kRows, count - tile * T::kRows) : 0;
    stages.start(turn, args.rows + static_cast<std::int64_t>(tile) * tile_bytes, rows * row_bytes);
  };
  int tile = static_cast<int>(blockIdx.x) * kEncodeWarps + warp;
  start(tile, 0);  // the first rows come while the tables are made
  start(tile + step, 1);

  bins.fill(table, static_cast<int>(threadIdx.x), 32 * kEncodeWarps);
  if (threadIdx.x < 1 << K::kBits) {
    codebook.edges[threadIdx.x] = table.edges[threadIdx.x];
    codebook.levels[threadIdx.x] = table.levels[threadIdx.x];
  }
  __syncthreads();
  __shared__ std::conditional_t<K::kFactor, PairEnergies<K::kBits>, char> energies;
  std::uint32_t energies_origin = 0;
  if constexpr (K::kFactor) {
    energies.fill(codebook.levels, static_cast<int>(threadIdx.x), 32 * kEncodeWarps);
    energies_origin = energies.origin(lane);
    __syncthreads();
  }

  const LaneChunks<T> chunks(shared.tile, lane);
  const LaneColumns<T> columns(shared.tile, lane);
  const CodeExchange<T> exchange(shared.codes, lane);
  const float magic = table.magic;
  const std::uint32_t origin = bins.origin(magic);
  const int sum_lane = lane_of_sum<T>(tile_row);
  std::uint32_t signs1[8];
  float signs2[T::kChunks][T::kWidth];
#pragma unroll
  for (int i = 0; i < 8; ++i) signs1[i] = args.rotation.signs1[lane % T::kChunks * 8 + i];
#pragma unroll
  for (int c = 0; c < T::kChunks; ++c) {
#pragma unroll
    for (int j = 0; j < T::kWidth; ++j) signs2[c][j] = sign_of(args.rotation.signs2[8 * c + T::kWidth * m + j]);
  }

  for (int turn = 0, phase = 0; tile < tiles; tile += step, turn ^= 1, phase ^= turn ^ 1) {
    stages.wait(turn, phase);
    const TileNorm here = transform_by_chunk<K>(dtype, stages.stage(turn), lane, signs1, chunks);
    __syncwarp();
    start(tile + 2 * step, turn);

    float v[T::kChunks][T::kWidth];
    columns.load(v);
    transform_columns<T>(v);
    const float carried = __shfl_sync(0xffffffffu, here.value, sum_lane);
    if (__any_sync(0xffffffffu, !here.usual || here.small)) {
      const bool others = K::kDivideFirst && holds_small<K>(args, static_cast<std::int64_t>(tile) * T::kRows, lane);
      if (__any_sync(0xffffffffu, !here.usual) || others) {
        const int own = tile * T::kRows + lane;
        if (lane < T::kRows && own < count) encode_plain_row<K::kBits>(args, codebook, own, first_refused);
        __syncwarp();
        continue;
      }
    }
    const float norm = K::kDivideFirst ? carried : math::square_root(carried);
    CodedColumns<K> coded;
    code_columns<K>(v, K::kDivideFirst ? 1.0f : args.rotation.scale / norm, signs2, magic, origin,
                    codebook.levels, coded);
    std::uint32_t gathered[4];
    exchange.template gather<K::kBits>(coded.codes, gathered);
    float stored = norm;
    if constexpr (K::kFactor) {
      const float energy = sum_energy<T, K::kBits>(gathered, energies_origin);
      stored = norm * norm_factor<K>(coded, energy, shared.tile, tile_row, m);
    }
    const int row = tile * T::kRows + tile_row;
    exchange.template write<K::kBits>(gathered, args.codes, tile, min(T::kRows, count - tile * T::kRows));
    if (m == 0 && row < count) {
      const math::EncodedRow<float> result = math::store_norm(stored, 0, args.rule.f16);
      args.norms[row] = result.norm;
      if (result.refused != 0) atomicMin(first_refused, static_cast<unsigned long long>(row));
    }
  }
}

// ---- The launcher.

template <class K>
void launch_tiles(const EncodeArgs& args, const TileCodebook& codebook, unsigned long long* first_refused) {
  const auto kernel = encode_tiles<K>;
  const TileLaunch launch = encode_tile_launch(K::T::kDim, args.dtype, args.count);
  const int resident = resident_blocks(reinterpret_cast<const void*>(kernel), launch.threads, launch.shared_bytes);
  kernel<<<launch.blocks(resident), launch.threads, static_cast<std::size_t>(launch.shared_bytes)>>>(args, codebook, first_refused);
  check_cuda(cudaGetLastError(), "starting to encode");
}

template <int Chunks, int Bits, bool Bf16>
void choose_mode(const EncodeArgs& args, const TileCodebook& codebook, unsigned long long* first_refused) {
  switch (args.rule.mode) {
    case NormMode::kRaw:
      if (args.rule.divide_first) return launch_tiles<EncodeKind<Chunks, Bits, NormMode::kRaw, true, Bf16>>(args, codebook, first_refused);
      return launch_tiles<EncodeKind<Chunks, Bits, NormMode::kRaw, false, Bf16>>(args, codebook, first_refused);
    case NormMode::kCorrected:
      if (args.rule.divide_first) {
        return launch_tiles<EncodeKind<Chunks, Bits, NormMode::kCorrected, true, Bf16>>(args, codebook, first_refused);
      }
      return launch_tiles<EncodeKind<Chunks, Bits, NormMode::kCorrected, false, Bf16>>(args, codebook, first_refused);
    default: return launch_tiles<EncodeKind<Chunks, Bits, NormMode::kLeastSquares, false, Bf16>>(args, codebook, first_refused);
  }
}

template <int Chunks, int Bits>
void choose_type(const EncodeArgs& args, const TileCodebook& codebook, unsigned long long* first_refused) {
  if (args.dtype == DType::kBf16) return choose_mode<Chunks, Bits, true>(args, codebook, first_refused);
  choose_mode<Chunks, Bits, false>(args, codebook, first_refused);
}

template <int Chunks>
void choose_bits(const EncodeArgs& args, const TileCodebook& codebook, unsigned long long* first_refused) {
  switch (args.codebook->bits) {
    case 2: return choose_type<Chunks, 2>(args, codebook, first_refused);
    case 3: return choose_type<Chunks, 3>(args, codebook, first_refused);
    default: return choose_type<Chunks, 4>(args, codebook, first_refused);
  }
}

}  // namespace tq::cuda
