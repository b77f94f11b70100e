// Decode on the GPU, fast, rows of 96 elements: the mirror of encode_lane_row.cu. Codes come through shared memory one tile ahead, rows
// leave through it, 16 bytes a lane. A tile with a norm of infinity, the last rows of a launch, and all rows of another H_12 are decoded by the plain code.
#include "kernels/cuda_check.h"
#include "kernels/gpu_decode_rows.h"
#include "kernels/gpu_lane_row.h"
#include "kernels/gpu_stages.h"

namespace tq::cuda {
namespace {

/// What one kernel is made for.
template <int Bits, bool Bf16>
struct LaneKind {
  static constexpr int kBits = Bits;
  static constexpr bool kBf16 = Bf16;
  static constexpr int kWords = 3 * Bits;  ///< of a row's codes
};

// ---- Helpers.

/// Levels of a row's codes, with signs, after the butterflies of its chunks.
template <class K>
__device__ __forceinline__ void look_up_row(const std::uint32_t* row, const float* signs, const float* levels, LaneRow& x) {
  std::uint32_t words[K::kWords];
  if constexpr (K::kBits == 4) {
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      const uint4 four = reinterpret_cast<const uint4*>(row)[i];
      words[4 * i] = four.x, words[4 * i + 1] = four.y, words[4 * i + 2] = four.z, words[4 * i + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < K::kWords; ++i) words[i] = row[i];
  }
#pragma unroll
  for (int c = 0; c < kRowChunks; ++c) {
    const int at = 8 * K::kBits * c;
    std::uint32_t bits = words[at / 32] >> (at % 32);
    if (at % 32 + 8 * K::kBits > 32) bits = __funnelshift_r(words[at / 32], words[at / 32 + 1], at % 32);
#pragma unroll
    for (int e = 0; e < 8; ++e) x[c][e] = levels[bits >> (K::kBits * e) & ((1u << K::kBits) - 1)];
    float sign[8];
    load_eight(signs + 8 * c, sign);
    transform_chunk(x[c], sign);
  }
}

/// A row times `scale`, with signs, to shared memory in its type. keep is all ones, or 0 for a row of norm 0.
__device__ __forceinline__ void write_row(DType dtype, const LaneRow& x, float scale, const std::uint32_t* signs, std::uint32_t keep,
                                          uint4* to) {
#pragma unroll
  for (int c = 0; c < kRowChunks; ++c) {
    const uint4 low = reinterpret_cast<const uint4*>(signs)[2 * c], high = reinterpret_cast<const uint4*>(signs)[2 * c + 1];
    const std::uint32_t sign[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    float y[8];
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const float mixed = x[c][e] + 0.0f;  // a sum of zero has no sign
      y[e] = __uint_as_float((__float_as_uint(mixed * scale) ^ sign[e]) & keep);
    }
    if (dtype == DType::kF32) {
      reinterpret_cast<float4*>(to)[2 * c] = make_float4(y[0], y[1], y[2], y[3]);
      reinterpret_cast<float4*>(to)[2 * c + 1] = make_float4(y[4], y[5], y[6], y[7]);
    } else {
      to[c] = make_uint4(round_pair(dtype, y[0], y[1]), round_pair(dtype, y[2], y[3]), round_pair(dtype, y[4], y[5]),
                         round_pair(dtype, y[6], y[7]));
    }
  }
}

/// 32 rows of kUnits times 16 bytes from shared memory, where each lies 16 bytes beyond the end of the one before, to device memory, where they are contiguous.
template <int kUnits>
__device__ __forceinline__ void write_tile(const uint4* from, uint4* to, int lane) {
#pragma unroll
  for (int i = 0; i < kUnits; ++i) {
    const int unit = lane + 32 * i;
    to[unit] = from[unit / kUnits * (kUnits + 1) + unit % kUnits];
  }
}

// ---- The kernel.

template <class K>
__global__ void __launch_bounds__(32 * kLaneRowWarps, 16 / kLaneRowWarps)
    decode_lane_rows(const __grid_constant__ DecodeArgs args, const __grid_constant__ Codebook table) {
  constexpr int kCodeBytes = 4 * kLaneRows * K::kWords;  // of a tile
  extern __shared__ __align__(128) std::uint8_t buffers[];  // a tile of rows a warp
  __shared__ alignas(128) std::uint8_t code_stages[kLaneRowWarps][kCodeBytes];
  __shared__ alignas(16) std::uint32_t signs1[kLaneRowDim];
  __shared__ alignas(16) float signs2[kLaneRowDim];
  __shared__ alignas(8) std::uint64_t barriers[kLaneRowWarps];
  __shared__ Codebook codebook;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const DType dtype = K::kBf16 ? DType::kBf16 : args.dtype;
  const int units = kLaneRowDim / 16 * element_bytes(dtype);  // of 16 bytes, a row
  uint4* rows = reinterpret_cast<uint4*>(buffers) + warp * (kLaneRows * (units + 1));
  const TileStages<1> stages(code_stages[warp], &barriers[warp], kCodeBytes, lane);
  const int count = static_cast<int>(args.count), tiles = (count + kLaneRows - 1) / kLaneRows, whole = count / kLaneRows;
  const int step = static_cast<int>(gridDim.x) * kLaneRowWarps;
  const auto start = [&](int tile) {  // the last rows' codes may end where no copy of 16 bytes can
    stages.start(0, args.codes + static_cast<std::int64_t>(tile) * kCodeBytes, tile < whole ? kCodeBytes : 0);
  };
  int tile = static_cast<int>(blockIdx.x) * kLaneRowWarps + warp;
  start(tile);

  if (thread < 1 << K::kBits) codebook.levels[thread] = table.levels[thread];
  for (int i = thread; i < kLaneRowDim; i += 32 * kLaneRowWarps) {
    signs1[i] = args.rotation.signs1[i];
    signs2[i] = sign_of(args.rotation.signs2[i]);
  }
  const bool known = has_hadamard12(args.rotation.matrix, thread, 32 * kLaneRowWarps);  // and a barrier

  for (int phase = 0; tile < tiles; tile += step, phase ^= 1) {
    const int row = tile * kLaneRows + lane;
    const float norm = args.norms[min(row, count - 1)];
    if (tile == whole) {
      if (row < count) decode_plain_row<K::kBits>(args, codebook, row);
      break;  // it is the last
    }
    stages.wait(0, phase);
    LaneRow x;
    look_up_row<K>(reinterpret_cast<const std::uint32_t*>(stages.stage(0)) + lane * K::kWords, signs2, codebook.levels, x);
    __syncwarp();
    start(tile + step);
    if (!known || __any_sync(0xffffffffu, norm == __int_as_float(0x7f800000))) {
      decode_plain_row<K::kBits>(args, codebook, row);
      __syncwarp();
      continue;
    }
    mix_twelve<true>(x);
    write_row(dtype, x, norm * args.rotation.scale, signs1, norm > 0.0f ? 0xffffffffu : 0u, rows + lane * (units + 1));
    __syncwarp();
    uint4* to = reinterpret_cast<uint4*>(args.rows) + static_cast<std::int64_t>(tile) * (kLaneRows * units);
    if (dtype == DType::kF32) {
      write_tile<24>(rows, to, lane);
    } else {
      write_tile<12>(rows, to, lane);
    }
    __syncwarp();
  }
}

// ---- The launcher.

template <class K>
void launch(const DecodeArgs& args) {
  const TileLaunch launch = lane_row_launch(args.dtype, args.count);
  const int resident = resident_blocks(reinterpret_cast<const void*>(decode_lane_rows<K>), launch.threads, launch.shared_bytes);
  decode_lane_rows<K><<<launch.blocks(resident), launch.threads, static_cast<std::size_t>(launch.shared_bytes)>>>(args, *args.codebook);
  check_cuda(cudaGetLastError(), "starting to decode");
}

template <int Bits>
void choose_type(const DecodeArgs& args) {
  if (args.dtype == DType::kBf16) return launch<LaneKind<Bits, true>>(args);
  launch<LaneKind<Bits, false>>(args);
}

}  // namespace

void decode_rows_96(const DecodeArgs& args) {
  switch (args.codebook->bits) {
    case 2: return choose_type<2>(args);
    case 3: return choose_type<3>(args);
    default: choose_type<4>(args);
  }
}

}  // namespace tq::cuda
