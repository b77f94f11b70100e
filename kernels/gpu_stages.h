// A warp's buffers in shared memory, one or two, filled from device memory while the warp works on something else. From compute capability
// 9.0 bulk copies bring them, whose bytes a barrier counts; before, every lane copies 16 bytes at a time. Included by .cu
// files only.
#pragma once

#include <cstdint>

#include "kernels/gpu_warp.h"

namespace tq::cuda {

/// Copies start and are waited for in turn: 0, 1, 0, 1, ..., or where there is one buffer always 0. All lanes call everything, at the
/// same point.
template <int Buffers>
class TileStages {
 public:
  /// buffers: `stage_bytes` each, at a multiple of 16, and as many barriers, all of them the warp's own.
  __device__ TileStages(std::uint8_t* buffers, [[maybe_unused]] std::uint64_t* barriers, int stage_bytes, int lane)
      : buffers_(buffers), stage_bytes_(stage_bytes), lane_(lane), address_(kept(shared_address(buffers))) {
#if __CUDA_ARCH__ >= 900
    barriers_ = shared_address(barriers);
    if (lane == 0) {
#pragma unroll
      for (int i = 0; i < Buffers; ++i) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barriers_ + 8u * i));
      asm volatile("fence.proxy.async.shared::cta;");
    }
    __syncwarp();  // start() may elect another lane
#endif
  }

  /// Starts copying `bytes` bytes, a multiple of 16 and at most stage_bytes; 0: none are left. No lane reads this stage any more.
  __device__ __forceinline__ void start(int turn, const std::uint8_t* from, int bytes) const {
#if __CUDA_ARCH__ >= 900
    if (bytes == 0) return;
    asm volatile(
        "{.reg .pred p;\n"
        "elect.sync _|p, 0xffffffff;\n"
        "@p mbarrier.arrive.expect_tx.shared::cta.b64 _, [%3], %2;\n"
        "@p cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];}" ::"r"(
            stage_address(turn)),
        "l"(from), "r"(bytes), "r"(barriers_ + 8u * static_cast<std::uint32_t>(turn))
        : "memory");
#else
    for (int at = 16 * lane_; at < bytes; at += 512) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(stage(turn) + at)), "l"(from + at));
    }
    asm volatile("cp.async.commit_group;");
#endif
  }

  /// The same of `rows` rows, at most one a lane, each of which lies 16 bytes beyond the end of the one before.
  __device__ __forceinline__ void start_rows(int turn, const std::uint8_t* from, int row_bytes, int rows) const {
#if __CUDA_ARCH__ >= 900
    if (rows == 0) return;
    const std::uint32_t barrier = barriers_ + 8u * static_cast<std::uint32_t>(turn);
    if (lane_ == 0) {
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(rows * row_bytes) : "memory");
    }
    __syncwarp();
    if (lane_ < rows) {
      asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                       shared_address(stage(turn) + lane_ * (row_bytes + 16))),
                   "l"(from + lane_ * row_bytes), "r"(row_bytes), "r"(barrier)
                   : "memory");
    }
#else
    for (int at = 16 * lane_; at < rows * row_bytes; at += 512) {
      const std::uint32_t to = shared_address(stage(turn) + at + at / row_bytes * 16);
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from + at));
    }
    asm volatile("cp.async.commit_group;");
#endif
  }

  /// Waits for the copy that was started `turn`; `phase` changes each time that all buffers were waited for.
  __device__ __forceinline__ void wait([[maybe_unused]] int turn, [[maybe_unused]] int phase) const {
#if __CUDA_ARCH__ >= 900
    // One instruction asks for all lanes, so they get one answer and the branch does not divide them.
    asm volatile(
        "{.reg .pred p;\n"
        "Again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
        "@!p bra.uni Again;}" ::"r"(barriers_ + 8u * static_cast<std::uint32_t>(turn)),
        "r"(phase)
        : "memory");
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(Buffers - 1) : "memory");
    __syncwarp();
#endif
  }

  __device__ __forceinline__ std::uint8_t* stage(int turn) const { return buffers_ + turn * stage_bytes_; }
  __device__ __forceinline__ std::uint32_t stage_address(int turn) const {
    return address_ + static_cast<std::uint32_t>(turn * stage_bytes_);
  }

 private:
  std::uint8_t* buffers_;
  int stage_bytes_;
  int lane_;
  std::uint32_t address_;
#if __CUDA_ARCH__ >= 900
  std::uint32_t barriers_;
#endif
};

}  // namespace tq::cuda
