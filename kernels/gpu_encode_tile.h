// Encode on the GPU, fast: dims 64, 128 and 256, 2, 3 and 4 bits, Sylvester rotations. A warp works on a tile (gpu_runs.h) at a time:
// rows come in two tiles ahead (gpu_stages.h); norms (gpu_run_norm.h) and first butterflies by run; the other butterflies and codes by
// column; norm factor and packing by run again (gpu_pack_tile.h), beside the next tile's norms. That part of the loop has no branch (but in
// least-squares norms, for their division), so that the compiler mixes the two: each alone would wait more than it computes.
//
// Codes are found by bins (gpu_bins.h). What these do not serve, the launcher leaves to the plain kernel. Tiles with a row that is not
// finite, whose squares leave float32's range, or that cannot be divided without a division, are left to the plain code after the loop.
//
// Included by encode_tile_64.cu, _128.cu and _256.cu, so that they compile side by side.
#pragma once

#include <cuda_fp16.h>

#include <type_traits>

#include "kernels/cuda_check.h"
#include "kernels/gpu_bins.h"
#include "kernels/gpu_pack_tile.h"
#include "kernels/gpu_plain.h"
#include "kernels/gpu_run_norm.h"
#include "kernels/gpu_runs.h"
#include "kernels/gpu_stages.h"

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
  static constexpr int kShift = code_shift(Mode, Bits);
  using Exchange = CodeExchange<R, Bits>;
  using Energies = std::conditional_t<kFactor, LevelEnergies<Bits>, char>;
};

// ---- Helpers, by column.

/// The codes of a lane's column, and for least-squares norms <y, c> over the lane's elements of each run.
template <class K>
struct CodedColumn {
  ColumnCodes<typename K::R> codes;
  float products[K::kMode == NormMode::kLeastSquares ? K::R::kLanes : 1];
};

template <class K>
__device__ __forceinline__ void code_column(const float (&v)[K::R::kLanes][K::R::kWidth], float scale, const RunSigns<typename K::R>& signs,
                                            float magic, std::uint32_t origin, [[maybe_unused]] const float* levels,
                                            CodedColumn<K>& coded) {
  using R = typename K::R;
  constexpr int kBits = K::kBits;
#pragma unroll
  for (int q = R::kLanes - 1; q >= 0; --q) {
    [[maybe_unused]] float products_of[R::kWidth];
#pragma unroll
    for (int j = R::kWidth - 1; j >= 0; --j) {
      const float y = K::kDivideFirst ? v[q][j] : v[q][j] * scale;  // of quotients the limits know the scale
      const float sign = signs.out[q][j];
      std::uint32_t& word = coded.codes.word[q][j / 8];
      if constexpr (K::kMode == NormMode::kLeastSquares) {
        const std::uint32_t code = push_code<kBits, K::kShift>(0, y, sign, magic, origin);
        word = (word << kBits) + (code << lead_bits(kBits));
        products_of[j] = (y * sign) * levels[code];
      } else if (kBits == 4 && j % 8 == 0) {  // a word of eight has no room below its last code
        word = (word << 1) + (push_code<kBits, K::kShift>(0, y, sign, magic, origin) >> (kBits - 1));
      } else {
        word = push_code<kBits, K::kShift>(word, y, sign, magic, origin);
      }
    }
    if constexpr (K::kMode == NormMode::kLeastSquares) coded.products[q] = sum_tree<R::kWidth>(products_of);
  }
}

/// Beyond all rows.
inline constexpr int kNoRow = 0x7fffffff;

/// What is left of a tile whose codes were put into shared memory. It is done while the next tile's norms are, because both wait for
/// shared memory more than they compute.
struct Unfinished {
  int row = kNoRow;  ///< the first that is its own
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

/// Writes the codes and norms of a tile. first_refused: of this lane's rows
template <class K>
__device__ __forceinline__ void finish(const EncodeArgs& args, const Unfinished& tile, const typename K::Exchange& exchange,
                                       [[maybe_unused]] std::uint32_t energies, int lane, int& first_refused) {
  using R = typename K::R;
  std::uint32_t codes[4];
  exchange.take(codes);
  float norm = tile.norm;
  if constexpr (K::kFactor) norm *= norm_factor<K::kMode>(sum_energy<R, K::kBits>(codes, energies), tile.product);
  const int count = static_cast<int>(args.count), first_row = min(tile.row, count - R::kRows);
  exchange.write(codes, args.codes + static_cast<std::int64_t>(first_row) * (R::kDim / 8 * K::kBits), tile.row < count);
  const float stored = args.rule.f16 ? __half2float(__float2half_rn(norm)) : norm;  // math::store_norm() by the machine's conversions
  const int row = first_row + static_cast<int>(static_cast<unsigned>(lane) / R::kLanes);
  const bool mine = row >= tile.row && lane % R::kLanes == 0;
  if (mine) args.norms[row] = stored;
  const bool refused = !(stored < __int_as_float(0x7f800000)) || (norm > 0.0f && stored == 0.0f);
  if (mine && refused) first_refused = min(first_refused, row);
}

// ---- The kernel.

/// What a warp has in shared memory beside its stages.
template <class K>
struct EncodeShared {
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
  __shared__ SharedBins<K::kBits, K::kShift> bins;
  __shared__ PlainCodebook codebook;
  __shared__ PairSigns pair_signs;
  __shared__ typename K::Energies energies;
  const int thread = static_cast<int>(threadIdx.x), warp = same_in_lanes(thread / 32), lane = static_cast<int>(kept(threadIdx.x % 32));
  const DType dtype = K::kBf16 ? DType::kBf16 : args.dtype;
  const int row_bytes = R::kDim * element_bytes(dtype), tile_bytes = R::kRows * row_bytes;
  EncodeShared<K>& shared = shared_warps[warp];
  const TileStages<2> stages(buffers + 2 * warp * tile_bytes, shared.barriers, tile_bytes, lane);
  // The warps of a block go on together, and the loop does not call the plain code: else the compiler would not know that lanes are not
  // divided. A warp's rows are `offset` beyond the block's. Rows that fill no tile are the last of one that overlaps the tile before.
  const int count = static_cast<int>(args.count), last_tile = count - R::kRows, offset = warp * R::kRows;
  const int step = static_cast<int>(gridDim.x) * kEncodeWarps * R::kRows;
  const auto start = [&](int row, int turn) {
    const std::uint8_t* from = args.rows + static_cast<std::int64_t>(min(row + offset, last_tile)) * row_bytes;
    stages.start(turn, from, row < count && last_tile >= 0 ? tile_bytes : 0);
  };
  int row = static_cast<int>(blockIdx.x) * kEncodeWarps * R::kRows;
  const int first_row = row + offset;
  const float pair_sign = PairSigns::read<R>(args.rotation, thread);
  const RunSigns<R> signs(args.rotation, pair_signs, table.unit, lane);
  start(row, 0);  // the first rows and the signs come while the tables are made
  start(row + step, 1);

  bins.fill(table, thread, 32 * kEncodeWarps);
  if constexpr (K::kFactor) energies.fill(table.levels, thread, 32 * kEncodeWarps);
  if (thread < 1 << K::kBits) {
    codebook.edges[thread] = table.edges[thread];
    codebook.levels[thread] = table.levels[thread];
  }
  pair_signs.put(thread, pair_sign);
  __syncthreads();

  const typename K::Exchange exchange(shared.codes, lane);
  std::uint32_t energies_origin = 0;
  if constexpr (K::kFactor) energies_origin = energies.origin(lane);
  const std::uint32_t place = kept(run_place<K>(dtype, lane));
  const float magic = table.magic;
  const std::uint32_t origin = bins.origin(magic);

  Unfinished last;
  int refused = kNoRow;
  bool has_plain = last_tile < 0;  // all rows are for the plain code; or tiles are: the norm of their last row is -1 until then
  for (int turn = 0, phase = 0; row < count && last_tile >= 0; row += step, turn ^= 1, phase ^= turn ^ 1) {
    stages.wait(turn, phase);
    float x[32];
    MaybeSmall<K::kBf16> small;
    read_run<K>(dtype, stages.stage_address(turn) + place, lane, x, small);
    finish<K>(args, last, exchange, energies_origin, lane, refused);
    const RunNorm here = norm_of_run<K>(x, small, args.rotation.scale);
    last.row = kNoRow;
    if (any_lane(!here.sure || here.small)) {
      const bool too_small = K::kDivideFirst && holds_small<K::kBf16>(dtype, stages.stage_address(turn), lane);
      if (any_lane(!here.usual || too_small)) {
        __syncwarp();
        start(row + 2 * step, turn);
        if (lane == 0 && row + offset < count) args.norms[min(row + offset + R::kRows, count) - 1] = -1.0f;
        has_plain = true;
        continue;
      }
      if constexpr (K::kDivideFirst && K::kBf16) divide_again<K>(dtype, stages.stage_address(turn) + place, lane, here.norm, x);
    }
    __syncwarp();
    start(row + 2 * step, turn);
    transform_run<R>(x, signs);
    float v[R::kLanes][R::kWidth];
    exchange_columns<R>(x, v);
    transform_column<R>(v, signs);
    CodedColumn<K> coded;
    code_column<K>(v, here.scale, signs, magic, origin, codebook.levels, coded);
    exchange.put(coded.codes);
    if constexpr (K::kMode == NormMode::kLeastSquares) last.product = sum_columns<R>(coded.products, lane);
    last.row = row + offset;
    last.norm = here.norm;
    __syncwarp();
  }
  finish<K>(args, last, exchange, energies_origin, lane, refused);
  if (refused != kNoRow) atomicMin(first_refused, static_cast<unsigned long long>(refused));

  if (!has_plain) return;
  __syncwarp();
  for (row = first_row; row < count; row += step) {
    const int end = min(row + R::kRows, count);
    if (last_tile >= 0 && !(args.norms[end - 1] < 0.0f)) continue;
    __syncwarp();
    if (row + lane < end) encode_plain_row<K::kBits>(args, codebook.edges, codebook.levels, row + lane, first_refused);
    __syncwarp();
  }
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
