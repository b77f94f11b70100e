// Which of the CPU targets this machine can run: what cpu_backend.cpp and cpu_matmul.cpp choose by.
#pragma once

namespace tq {

inline bool runs_always() { return true; }
#if defined(TQ_HAVE_AVX2)
inline bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif
#if defined(TQ_HAVE_AVX512)
inline bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}
#endif

}  // namespace tq
