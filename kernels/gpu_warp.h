// What kernels tell the compiler that C++ has no words for: shared addresses, what to keep in a register, what is the same in all lanes of
// a warp. Included by .cu files only.
#pragma once

#include <cstdint>

namespace tq::cuda {

/// Shared address of a pointer.
__device__ __forceinline__ std::uint32_t shared_address(const void* at) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(at));
}

/// The same value, which the compiler shall keep in a register and not compute anew where it is used.
__device__ __forceinline__ std::uint32_t kept(std::uint32_t value) {
  std::uint32_t same;
  asm volatile("mov.b32 %0, %1;" : "=r"(same) : "r"(value));
  return same;
}

/// Whether any lane says yes. Unlike of a vote, the compiler knows of a reduction that it is the same in all lanes: where these alone are
/// branched on, shuffles and barriers of the warp need no code for lanes that are apart.
__device__ __forceinline__ bool any_lane(bool yes) { return __reduce_or_sync(0xffffffffu, yes ? 1u : 0u) != 0; }

/// A number that is the same in all lanes, 0 or more, so that the compiler knows it.
__device__ __forceinline__ int same_in_lanes(int value) {
  return static_cast<int>(__reduce_max_sync(0xffffffffu, static_cast<unsigned>(value)));
}

/// 16 bytes of shared memory.
__device__ __forceinline__ uint4 load_shared(std::uint32_t address) {
  uint4 w;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(w.x), "=r"(w.y), "=r"(w.z), "=r"(w.w) : "r"(address) : "memory");
  return w;
}

}  // namespace tq::cuda
