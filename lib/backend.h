// The few coarse operations that a backend offers, one call for many rows, and how a backend is chosen.
// Every backend writes the same bytes: the arithmetic is lib/math's.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lib/codec.h"
#include "lib/dtype.h"

namespace tq {

class Backend {
 public:
  virtual ~Backend() = default;

  /// Such as "cpu/avx2".
  virtual std::string name() const = 0;

  /// rows [count][dim] of F32, F16 or BF16 -> codes [count][scheme.code_bytes()], norms [count].
  /// Returns the first row that cannot be coded (it holds NaN or infinity, or its norm overflows float32; what is written
  /// for such a row means nothing), or -1. Thread-safe.
  virtual std::int64_t encode(const Codec& codec, DType dtype, const void* rows, std::int64_t count, std::uint8_t* codes,
                              float* norms) const = 0;

  /// The inverse: rows are written as F32, F16 or BF16, rounded to nearest even. Thread-safe.
  virtual void decode(const Codec& codec, const std::uint8_t* codes, const float* norms, std::int64_t count, DType dtype,
                      void* rows) const = 0;
};

/// Instruction sets that this machine can run, narrowest first: "scalar", "simd128", "avx2", "avx512".
std::vector<std::string> cpu_targets();

/// The CPU backend for one of cpu_targets(). Throws Error that lists them for any other name.
std::unique_ptr<Backend> make_cpu_backend(std::string_view target);

/// The widest target, or the one that the environment variable TQ_CPU names.
std::unique_ptr<Backend> make_cpu_backend();

/// Converts count values between F32, F16 and BF16 (exact, or rounded to nearest even).
void convert_to_float(DType dtype, const void* from, std::int64_t count, float* to);
void convert_from_float(const float* from, std::int64_t count, DType dtype, void* to);

}  // namespace tq
