// The value type V of every algorithm in lib/math, and the few operations on it that C++ has no operator for.
//
// On the CPU, V is a compiler vector of W floats, and lane r holds row r: W rows go through the same code at once.
// With W = 1, and in CUDA, V is a plain float. Every operation here is exact or correctly rounded per lane, so the
// bytes that come out do not depend on W.
//
// TQ_TARGET names the instruction set that a file is compiled for. It is part of every symbol's name, so that the
// linker never merges two builds of one template and runs, say, AVX-512 code on a machine without it.
#pragma once

#include <cstdint>
#include <cstring>

#if (defined(__AVX2__) || defined(__AVX512F__)) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

#if defined(__FAST_MATH__)
#error "lib/math decides what reaches a file: build it without fast math"
#endif

// TQ_HD: inlined wherever it is called. TQ_HD_CALL: slow paths, called. TQ_HD_ONCE: called on the CPU, where one call serves W
// rows, and inlined in CUDA. TQ_UNROLL(n) stands before a loop.
#if defined(__CUDACC__)
#define TQ_HD __host__ __device__ __forceinline__
#define TQ_HD_CALL __host__ __device__ __noinline__
#define TQ_HD_ONCE TQ_HD
#if defined(__CUDA_ARCH__)
#define TQ_UNROLL(n) _Pragma("unroll")
#else
#define TQ_UNROLL(n)
#endif
#else
#define TQ_HD inline __attribute__((always_inline))
#define TQ_HD_CALL __attribute__((noinline))
#define TQ_HD_ONCE TQ_HD_CALL
#if defined(TQ_SANITIZED)  // instrumented and unrolled, the kernels would take minutes to compile
#define TQ_UNROLL(n)
#else
#define TQ_UNROLL(n) TQ_PRAGMA(GCC unroll n)
#endif
#define TQ_PRAGMA(text) _Pragma(#text)
#endif

#ifndef TQ_TARGET
#define TQ_TARGET scalar
#endif

namespace tq::math {
inline namespace TQ_TARGET {

template <int W>
struct VectorOf {
  typedef float Float __attribute__((vector_size(4 * W)));
  typedef std::int32_t Int __attribute__((vector_size(4 * W)));
};
template <>
struct VectorOf<1> {
  using Float = float;
  using Int = std::int32_t;
};

template <int W>
using FloatLanes = typename VectorOf<W>::Float;
template <int W>
using IntLanes = typename VectorOf<W>::Int;

/// Lanes in V, and the integer type with the same lanes.
template <class V>
inline constexpr int kLanes = static_cast<int>(sizeof(V) / 4);
template <class V>
using IntOf = IntLanes<kLanes<V>>;
template <class I>
using FloatOf = FloatLanes<kLanes<I>>;

/// Reads the bits of `from` as another type of the same size.
template <class To, class From>
TQ_HD To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

/// The value `x` in every lane.
template <class V>
TQ_HD V splat(float x) {
  if constexpr (kLanes<V> == 1) {
    return x;
  } else {
    return x - V{};  // x - (+0) is x, also for x = -0
  }
}
template <class I>
TQ_HD I splat_int(std::int32_t x) {
  if constexpr (kLanes<I> == 1) {
    return x;
  } else {
    return x - I{};
  }
}

/// All bits set in the lanes where a > b, else none. False for NaN.
template <class V>
TQ_HD IntOf<V> mask_greater(V a, V b) {
  if constexpr (kLanes<V> == 1) {
    return a > b ? -1 : 0;
  } else {
    return a > b;
  }
}

template <class I>
TQ_HD I mask_greater_int(I a, I b) {
  if constexpr (kLanes<I> == 1) {
    return a > b ? -1 : 0;
  } else {
    return a > b;
  }
}

template <class I>
TQ_HD I mask_equal_int(I a, I b) {
  if constexpr (kLanes<I> == 1) {
    return a == b ? -1 : 0;
  } else {
    return a == b;
  }
}

/// a in the lanes where the mask is set, else b.
template <class V>
TQ_HD V select(IntOf<V> mask, V a, V b) {
  using I = IntOf<V>;
  return bits_as<V>((mask & bits_as<I>(a)) | (~mask & bits_as<I>(b)));
}

/// True if the mask is set in any lane.
template <class I>
TQ_HD bool any(I mask) {
  if constexpr (kLanes<I> == 1) {
    return mask != 0;
#if defined(__AVX512F__)
  } else if constexpr (kLanes<I> == 16) {
    return _mm512_test_epi32_mask(bits_as<__m512i>(mask), bits_as<__m512i>(mask)) != 0;
#endif
#if defined(__AVX2__)
  } else if constexpr (kLanes<I> == 8) {
    return _mm256_testz_si256(bits_as<__m256i>(mask), bits_as<__m256i>(mask)) == 0;
#endif
  } else {
    std::int32_t all = 0;
    for (int lane = 0; lane < kLanes<I>; ++lane) all |= mask[lane];
    return all != 0;
  }
}

/// True where permute() is one instruction.
template <class V>
inline constexpr bool kCanPermute =
#if defined(__AVX512F__)
    kLanes<V> == 16 ||
#endif
#if defined(__AVX2__)
    kLanes<V> == 8 ||
#endif
    false;

/// Lane r of the result is lane index[r] of the table; only the low bits of an index count.
template <class V>
TQ_HD V permute([[maybe_unused]] V table, [[maybe_unused]] IntOf<V> index) {
  static_assert(kCanPermute<V>);
#if defined(__AVX512F__)
  if constexpr (kLanes<V> == 16) {  // the masked form, all lanes on: the plain one makes g++ 12 warn of its own header
    return bits_as<V>(_mm512_maskz_permutexvar_ps(0xffff, bits_as<__m512i>(index), bits_as<__m512>(table)));
  }
#endif
#if defined(__AVX2__)
  if constexpr (kLanes<V> == 8) {
    return bits_as<V>(_mm256_permutevar8x32_ps(bits_as<__m256>(table), bits_as<__m256i>(index)));
  }
#endif
}

template <class V>
TQ_HD V absolute(V x) {
  using I = IntOf<V>;
  return bits_as<V>(bits_as<I>(x) & splat_int<I>(0x7fffffff));
}

/// Vector registers of the machine, where that matters.
template <class V>
inline constexpr int kMachineRegisters =
#if defined(__AVX512F__)
    kLanes<V> == 16 ? 32 :
#endif
    16;

/// The lesser of |a| and |b| in each lane, neither of them NaN.
template <class V>
TQ_HD V least_magnitude(V a, V b) {
#if defined(__AVX512DQ__)
  if constexpr (kLanes<V> == 16) {
    constexpr int kLesserMagnitude = 2, kNoSign = 2 << 2;
    return bits_as<V>(_mm512_range_ps(bits_as<__m512>(a), bits_as<__m512>(b), kLesserMagnitude | kNoSign));
  }
#endif
#if defined(__AVX2__)
  if constexpr (kLanes<V> == 8) {
    return bits_as<V>(_mm256_min_ps(bits_as<__m256>(absolute(a)), bits_as<__m256>(absolute(b))));
  }
#endif
  return select(mask_greater(absolute(b), absolute(a)), absolute(a), absolute(b));
}

/// to | bits in the lanes where a > b, else to.
template <class V>
TQ_HD IntOf<V> or_where_greater(IntOf<V> to, V a, V b, std::int32_t bits) {
#if defined(__AVX512F__)
  if constexpr (kLanes<V> == 16) {
    const __mmask16 where = _mm512_cmp_ps_mask(bits_as<__m512>(a), bits_as<__m512>(b), _CMP_GT_OQ);
    const auto old = bits_as<__m512i>(to);
    return bits_as<IntOf<V>>(_mm512_mask_or_epi32(old, where, old, _mm512_set1_epi32(bits)));
  }
#endif
  return to | (mask_greater(a, b) & splat_int<IntOf<V>>(bits));
}

/// Correctly rounded square root of each lane.
template <class V>
TQ_HD V square_root(V x) {
  if constexpr (kLanes<V> == 1) {
#if defined(__CUDA_ARCH__)
    return __fsqrt_rn(x);
#else
    return __builtin_sqrtf(x);
#endif
  } else {
    V root;
    for (int lane = 0; lane < kLanes<V>; ++lane) root[lane] = __builtin_sqrtf(x[lane]);
    return root;
  }
}

/// True where fused_multiply_add() is one instruction.
template <class V>
inline constexpr bool kCanFuse =
#if defined(__AVX512F__)
    kLanes<V> == 16 ||
#endif
#if defined(__FMA__)
    kLanes<V> == 8 ||
#endif
    false;

/// a * b + c, rounded once. One value may be slow on a CPU.
template <class V>
TQ_HD V fused_multiply_add([[maybe_unused]] V a, [[maybe_unused]] V b, [[maybe_unused]] V c) {
  static_assert(kCanFuse<V> || kLanes<V> == 1);
  if constexpr (kLanes<V> == 1) return __builtin_fmaf(a, b, c);
#if defined(__AVX512F__)
  if constexpr (kLanes<V> == 16) {
    return bits_as<V>(_mm512_fmadd_ps(bits_as<__m512>(a), bits_as<__m512>(b), bits_as<__m512>(c)));
  }
#endif
#if defined(__FMA__)
  if constexpr (kLanes<V> == 8) {
    return bits_as<V>(_mm256_fmadd_ps(bits_as<__m256>(a), bits_as<__m256>(b), bits_as<__m256>(c)));
  }
#endif
}

}  // namespace TQ_TARGET
}  // namespace tq::math
