// Encode on the GPU, fast: dims 64, 128 and 256, 2, 3 and 4 bits, Sylvester rotations. A warp works on a tile (gpu_runs.h) at a time:
// rows come in two tiles ahead (gpu_stages.h); norm and first butterflies by run; the other butterflies and codes by column; norm factor
// and packing by run again (gpu_pack_tile.h), beside the next tile's norms. That part of the loop has no branch (but in
// least-squares norms, for their division), so that the compiler mixes the two: each alone would wait more than it computes.
//
// Codes are found by bins (gpu_bins.h). What these do not serve, the launcher leaves to the plain kernel. Rows that are not finite, or
// whose squares leave float32's range, or that cannot be divided in the fast way, are coded by a call in the kernel: their tile is.
//
// Included by encode_tile_64.cu, _128.cu and _256.cu, so that they compile side by side.
#pragma once

#include <cuda_fp16.h>

#include <type_traits>

#include "kernels/cuda_check.h"
#include "kernels/gpu_bins.h"
#include "kernels/gpu_pack_tile.h"
#include "kernels/gpu_plain.h"
#include "kernels/gpu_runs.h"
#include "kernels/gpu_stages.h"
#include "kernels/gpu_tile.h"

namespace tq::cuda {

/// What one kernel is made for. BF16 is a constant; F32 and F16 share a kernel, which asks once a tile.
template <int Lanes, int Bits, NormMode Mode, bool DivideFirst, bool Bf16>
struct EncodeKind {
  using R = Runs<Lanes, Bf16 ? 8 : 4>;
  static constexpr int kBits = Bits;
  static constexpr NormMode kMode = Mode;
  static constexpr bool kFactor = Mode != NormMode::kRaw;
  static constexpr bool kDivideFirst = DivideFirst;
  static constexpr bool kBf16 = Bf16;
  static constexpr bool kDense = Bits == 3 && !kFactor && R::kWidth >= 8;  ///< else a byte of two codes has a use, or costs nothing
  using Exchange = CodeExchange<R, kDense>;
};

// ---- Helpers, by run.

/// Below this, dividing without a division may be off (lib/math/norm.h). Half of it would do, for rows are shorter than 2^63 here.
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

/// A lane's run from its stage, in the lane's order. `small` is asked for where rows are divided.
template <class K>
__device__ __forceinline__ void read_run(DType dtype, std::uint32_t stage, int lane, float (&x)[32], MaybeSmall<K::kBf16>& small) {
  const auto order = static_cast<std::uint32_t>(K::R::order(lane));
  if (!K::kBf16 && dtype == DType::kF32) {
    const std::uint32_t first = stage + 128u * static_cast<std::uint32_t>(lane) + 4 * order;
#pragma unroll
    for (int i = 0; i < 32; i += 4) {
      const uint4 f = load_shared(first ^ (4u * i));
      x[i] = __uint_as_float(f.x), x[i + 1] = __uint_as_float(f.y), x[i + 2] = __uint_as_float(f.z), x[i + 3] = __uint_as_float(f.w);
    }
  } else {
    const std::uint32_t first = stage + 64u * static_cast<std::uint32_t>(lane) + 2 * (order & 24);
    const bool swap = !K::kBf16 && (order & 4) != 0;  // four of eight change place after they are read
#pragma unroll
    for (int i = 0; i < 32; i += 8) {
      const uint4 words = load_shared(first ^ (2u * i));
      const std::uint32_t w[4] = {swap ? words.z : words.x, swap ? words.w : words.y, swap ? words.x : words.z, swap ? words.y : words.w};
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        if constexpr (K::kBf16) {
          x[i + 2 * p] = __uint_as_float(w[p] << 16);
          x[i + 2 * p + 1] = __uint_as_float(w[p] & 0xffff0000u);
          if constexpr (K::kDivideFirst) small.add_pair(w[p]);
        } else {
          const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&w[p]));
          x[i + 2 * p] = pair.x, x[i + 2 * p + 1] = pair.y;
        }
      }
    }
  }
  if constexpr (K::kDivideFirst && !K::kBf16) {
#pragma unroll
    for (int i = 0; i < 32; ++i) small.add(x[i]);
  }
}

/// The sum of the squares of a row, of which a lane has a run: the pairwise tree. `exact`: the products are, so one need not be rounded
/// before the sum.
template <class R, bool exact>
__device__ __forceinline__ float sum_squares(const float (&x)[32]) {
  float terms[16];
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float first = x[2 * i] * x[2 * i], b = x[2 * i + 1];
    terms[i] = exact ? __fmaf_rn(b, b, first) : first + b * b;
  }
  float sum = sum_tree<16>(terms);
#pragma unroll
  for (int lanes = 1; lanes < R::kLanes; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  return sum;
}

/// The square root of 2^-80 or more, and 1 / x for x from 2^-80 to 2^125, correctly rounded: what the compiler makes of sqrtf and the
/// division, without a branch for the others.
__device__ __forceinline__ float square_root_within(float x) {
  float reciprocal;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(x));
  const float root = x * reciprocal;
  return __fmaf_rn(__fmaf_rn(-root, root, x), 0.5f * reciprocal, root);
}

__device__ __forceinline__ float reciprocal_within(float x) {
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(x));
  return __fmaf_rn(reciprocal, -__fmaf_rn(reciprocal, x, -1.0f), reciprocal);
}

/// What is known of a lane's row before its butterflies.
struct RunNorm {
  float norm;
  float scale;  ///< of the row's elements where they are not divided
  bool usual;   ///< its squares are within float32's range, far enough for the fast way
  bool small;   ///< of this lane's values: MaybeSmall
};

/// The norm of a row; x := x / norm where rows are divided first, by lib/math's BriefDivision or QuickDivision.
template <class K>
__device__ __forceinline__ RunNorm norm_of_run(float (&x)[32], const MaybeSmall<K::kBf16>& small, float rotation_scale) {
  // Of BF16 values that are not too small, squares are exact.
  const float squares = sum_squares<typename K::R, K::kBf16 && K::kDivideFirst>(x);
  const float norm = square_root_within(squares);
  const float reciprocal = reciprocal_within(norm);
  if constexpr (!K::kDivideFirst) {
    const float scale = math::QuickDivision<float>{&rotation_scale, norm, reciprocal}(0);
    return {norm, scale, squares > 0x1p-80f && squares < __int_as_float(0x7f800000), false};
  } else if constexpr (K::kBf16) {
    const math::BriefDivision<float> by(norm, reciprocal);
#pragma unroll
    for (int i = 0; i < 32; ++i) x[i] = by(x[i]);
    return {norm, 1.0f, math::divides_briefly(norm) != 0, small.get()};
  } else {
    const math::QuickDivision<float> quotient{x, norm, reciprocal};
#pragma unroll
    for (int i = 0; i < 32; ++i) x[i] = quotient(i);
    return {norm, 1.0f, squares > 0x1p-80f && squares < 0x1p126f, small.get()};
  }
}

/// Whether a row of the tile holds a value, not 0, that is too small to divide in the fast way. For tiles that hold a small value or a
/// zero: all lanes look at the rows once more.
template <class K>
__device__ __noinline__ bool holds_small(const EncodeArgs& args, std::int64_t first_row, int lane) {
  const std::int64_t first = first_row * K::R::kDim, last = first + kTileElements;
  bool found = false;
  for (std::int64_t i = first + lane; i < last; i += 32) {
    float x;
    load_row(K::kBf16 ? DType::kBf16 : args.dtype, args.rows + i * element_bytes(args.dtype), 1, &x);
    found |= fabsf(x) < kLeastDividend && x != 0.0f;
  }
  return __any_sync(0xffffffffu, found);
}

// ---- Helpers, by column.

/// The codes of a lane's column, and for least-squares norms <y, c> over the lane's elements of each run.
template <class K>
struct CodedColumn {
  typename K::Exchange::Codes codes;
  float products[K::kMode == NormMode::kLeastSquares ? K::R::kLanes : 1];
};

template <class K>
__device__ __forceinline__ void code_column(const float (&v)[K::R::kLanes][K::R::kWidth], float scale, const RunSigns<typename K::R>& signs,
                                            float magic, std::uint32_t origin, [[maybe_unused]] const float* levels,
                                            CodedColumn<K>& coded) {
  using R = typename K::R;
#pragma unroll
  for (int q = R::kLanes - 1; q >= 0; --q) {
    [[maybe_unused]] float products_of[R::kWidth];
#pragma unroll
    for (int j = R::kWidth - 1; j >= 0; --j) {
      const float y = K::kDivideFirst ? v[q][j] : v[q][j] * scale;  // of quotients the limits know the scale
      const std::uint32_t code = find_code<K::kBits>(y, signs.out[q][j], magic, origin);
      coded.codes.template push<K::kBits>(q, j, code);
      if constexpr (K::kMode == NormMode::kLeastSquares) products_of[j] = (y * signs.out[q][j]) * levels[code];
    }
    if constexpr (K::kMode == NormMode::kLeastSquares) coded.products[q] = sum_tree<R::kWidth>(products_of);
  }
}

/// What is left of a tile whose codes were put into shared memory. It is done while the next tile's norms are, because both wait for
/// shared memory more than they compute.
struct Unfinished {
  int tile = -1;  ///< or none
  float norm = 0.0f;
  float product = 0.0f;  ///< <y, c> of the lane's row, for least-squares norms
};

/// What the norm of a row is multiplied with. energy: <c, c>, 0 or at least 2^-80
template <NormMode kMode>
__device__ __forceinline__ float norm_factor(float energy, float product) {
  if constexpr (kMode == NormMode::kCorrected) {
    return energy > 0.0f ? reciprocal_within(square_root_within(energy)) : 1.0f;
  } else {
    return product > 0.0f ? product / energy : 0.0f;
  }
}

/// Writes the codes and norms of a tile.
template <class K>
__device__ __forceinline__ void finish(const EncodeArgs& args, const Unfinished& tile, const typename K::Exchange& exchange,
                                       [[maybe_unused]] std::uint32_t energies, int lane, unsigned long long* first_refused) {
  using R = typename K::R;
  std::uint32_t codes[4];
  exchange.take(codes);
  float norm = tile.norm;
  if constexpr (K::kFactor) norm *= norm_factor<K::kMode>(sum_energy<R, K::kBits>(codes, energies), tile.product);
  const bool real = tile.tile >= 0;
  exchange.template write<K::kBits>(codes, args.codes + static_cast<std::int64_t>(tile.tile) * (128 * K::kBits), real);
  const float stored = args.rule.f16 ? __half2float(__float2half_rn(norm)) : norm;  // as math::store_norm()
  const int row = tile.tile * R::kRows + lane / R::kLanes;
  if (real && lane % R::kLanes == 0) {
    args.norms[row] = stored;
    if (!(stored < __int_as_float(0x7f800000)) || (norm > 0.0f && stored == 0.0f)) {
      atomicMin(first_refused, static_cast<unsigned long long>(row));
    }
  }
}

// ---- The kernel.

template <class K>
struct EncodeShared {
  alignas(16) float tile[K::R::kRows * K::R::kRowPitch];
  alignas(16) std::uint32_t codes[K::Exchange::kWords];
  alignas(8) std::uint64_t barriers[2];
};

template <class K>
__global__ void __launch_bounds__(32 * kEncodeWarps, 4)
    encode_tiles(const __grid_constant__ EncodeArgs args, const __grid_constant__ TileCodebook table,
                 unsigned long long* first_refused) {
  using R = typename K::R;
  extern __shared__ __align__(128) std::uint8_t buffers[];  // two stages a warp
  __shared__ EncodeShared<K> shared_warps[kEncodeWarps];
  __shared__ SharedBins<K::kBits> bins;
  __shared__ Codebook codebook;
  __shared__ PairSigns pair_signs;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const DType dtype = K::kBf16 ? DType::kBf16 : args.dtype;
  const int tile_bytes = kTileElements * element_bytes(dtype);
  EncodeShared<K>& shared = shared_warps[warp];
  const TileStages<2> stages(buffers + 2 * warp * tile_bytes, shared.barriers, tile_bytes, lane);
  const int count = static_cast<int>(args.count), tiles = count / R::kRows;  // rows that fill none are coded one by one, at the end
  const int step = static_cast<int>(gridDim.x) * kEncodeWarps;
  const auto start = [&](int tile, int turn) {
    stages.start(turn, args.rows + static_cast<std::int64_t>(tile) * tile_bytes, tile < tiles ? tile_bytes : 0);
  };
  int tile = static_cast<int>(blockIdx.x) * kEncodeWarps + warp;
  start(tile, 0);  // the first rows come while the tables are made
  start(tile + step, 1);

  pair_signs.fill<R>(args.rotation, static_cast<int>(threadIdx.x));
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

  const RunPlaces<R> places(shared.tile, lane);
  const typename K::Exchange exchange(shared.codes, lane);
  const float magic = table.magic;
  const std::uint32_t origin = bins.origin(magic);
  const RunSigns<R> signs(args.rotation, pair_signs, lane);

  const auto code_plain = [&](std::int64_t first_row, std::int64_t rows) {
    if (lane < rows) encode_plain_row<K::kBits>(args, codebook, first_row + lane, first_refused);
  };
  Unfinished last;
  for (int turn = 0, phase = 0; tile < tiles; tile += step, turn ^= 1, phase ^= turn ^ 1) {
    stages.wait(turn, phase);
    float x[32];
    MaybeSmall<K::kBf16> small;
    read_run<K>(dtype, stages.stage_address(turn), lane, x, small);
    finish<K>(args, last, exchange, energies_origin, lane, first_refused);
    const RunNorm here = norm_of_run<K>(x, small, args.rotation.scale);
    last.tile = -1;
    if (__any_sync(0xffffffffu, !here.usual || here.small)) {
      const std::int64_t first_row = static_cast<std::int64_t>(tile) * R::kRows;
      const bool others = K::kDivideFirst && holds_small<K>(args, first_row, lane);
      if (__any_sync(0xffffffffu, !here.usual) || others) {
        __syncwarp();
        start(tile + 2 * step, turn);
        code_plain(first_row, R::kRows);
        __syncwarp();
        exchange.clear();
        continue;
      }
    }
    transform_run<R>(x, signs);
    places.store_run(x);
    __syncwarp();
    float v[R::kLanes][R::kWidth];
    places.load_column(v);
    start(tile + 2 * step, turn);
    transform_column<R>(v, signs);
    CodedColumn<K> coded;
    code_column<K>(v, here.scale, signs, magic, origin, codebook.levels, coded);
    exchange.put(coded.codes);
    if constexpr (K::kMode == NormMode::kLeastSquares) last.product = sum_columns<R>(coded.products, lane);
    last.tile = tile;
    last.norm = here.norm;
    __syncwarp();
  }
  finish<K>(args, last, exchange, energies_origin, lane, first_refused);
  if (tile == tiles) code_plain(static_cast<std::int64_t>(tile) * R::kRows, count - tiles * R::kRows);
}

// ---- The launcher.

template <class K>
void launch_tiles(const EncodeArgs& args, const TileCodebook& codebook, unsigned long long* first_refused) {
  const auto kernel = encode_tiles<K>;
  const TileLaunch launch = encode_tile_launch(K::R::kDim, args.dtype, args.count);
  const int resident = resident_blocks(reinterpret_cast<const void*>(kernel), launch.threads, launch.shared_bytes);
  kernel<<<launch.blocks(resident), launch.threads, static_cast<std::size_t>(launch.shared_bytes)>>>(args, codebook, first_refused);
  check_cuda(cudaGetLastError(), "starting to encode");
}

template <int Lanes, int Bits, bool Bf16>
void choose_mode(const EncodeArgs& args, const TileCodebook& codebook, unsigned long long* first_refused) {
  switch (args.rule.mode) {
    case NormMode::kRaw:
      if (args.rule.divide_first) return launch_tiles<EncodeKind<Lanes, Bits, NormMode::kRaw, true, Bf16>>(args, codebook, first_refused);
      return launch_tiles<EncodeKind<Lanes, Bits, NormMode::kRaw, false, Bf16>>(args, codebook, first_refused);
    case NormMode::kCorrected:
      if (args.rule.divide_first) {
        return launch_tiles<EncodeKind<Lanes, Bits, NormMode::kCorrected, true, Bf16>>(args, codebook, first_refused);
      }
      return launch_tiles<EncodeKind<Lanes, Bits, NormMode::kCorrected, false, Bf16>>(args, codebook, first_refused);
    default: return launch_tiles<EncodeKind<Lanes, Bits, NormMode::kLeastSquares, false, Bf16>>(args, codebook, first_refused);
  }
}

template <int Lanes, int Bits>
void choose_type(const EncodeArgs& args, const TileCodebook& codebook, unsigned long long* first_refused) {
  if (args.dtype == DType::kBf16) return choose_mode<Lanes, Bits, true>(args, codebook, first_refused);
  choose_mode<Lanes, Bits, false>(args, codebook, first_refused);
}

template <int Lanes>
void choose_bits(const EncodeArgs& args, const TileCodebook& codebook, unsigned long long* first_refused) {
  switch (args.codebook->bits) {
    case 2: return choose_type<Lanes, 2>(args, codebook, first_refused);
    case 3: return choose_type<Lanes, 3>(args, codebook, first_refused);
    default: return choose_type<Lanes, 4>(args, codebook, first_refused);
  }
}

}  // namespace tq::cuda
