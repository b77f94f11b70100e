// The few coarse operations that a backend offers, one call for many rows, and how a backend is chosen.
// Every backend writes the same bytes: the arithmetic is lib/math's.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/codec.h"
#include "lib/coded_rows.h"
#include "lib/dtype.h"
#include "lib/measure/error_stats.h"

namespace tq {

/// Where the calls of a backend spent their time away from the host's processors, summed over the threads that called.
struct DeviceSeconds {
  double upload = 0;    ///< waiting for rows to reach the device
  double kernels = 0;   ///< and for the kernels
  double download = 0;  ///< and for results to come back
};

class Backend {
 public:
  virtual ~Backend() = default;

  /// Such as "cpu/avx2".
  virtual std::string name() const = 0;

  /// rows [count][dim] of F32, F16 or BF16 -> codes [count][scheme.code_bytes()], norms [count] (values that the scheme's
  /// norm_dtype holds exactly). Returns the first row that cannot be coded (it holds NaN or infinity, or its norm
  /// overflows norm_dtype; what is written for it and later rows means nothing), or -1. Searches as codec.effort() asks;
  /// a backend without a search throws Error that names itself. Thread-safe.
  virtual std::int64_t encode(const Codec& codec, DType dtype, const void* rows, std::int64_t count, std::uint8_t* codes,
                              float* norms) const = 0;

  /// The inverse: rows are written as F32, F16 or BF16, rounded to nearest even. Thread-safe.
  virtual void decode(const Codec& codec, const std::uint8_t* codes, const float* norms, std::int64_t count, DType dtype,
                      void* rows) const = 0;

  /// The QJL sketch of the residuals rows - x_hat, for a scheme that has one: x_hat [count][dim] float32 as decode() made
  /// it -> signs [count][ceil(dim / 8)], norms of the residuals [count]. Returns as encode(). Thread-safe.
  virtual std::int64_t sketch(const Codec& codec, DType dtype, const void* rows, const float* x_hat, std::int64_t count,
                              std::uint8_t* signs, float* norms) const = 0;

  /// Adds the sketches to x_hat [count][dim]: inner products with the result are unbiased (Algorithm 2). Thread-safe.
  virtual void add_sketches(const Codec& codec, const std::uint8_t* signs, const float* norms, std::int64_t count,
                            float* x_hat) const = 0;

  /// How far x_hat [count][dim] is from x [count][dim], each of F32, F16 or BF16: the sums of each row, for
  /// ErrorStats::add_sums(). The same bits in every backend. Thread-safe.
  virtual void compare(int dim, DType dtype, const void* x, DType hat_dtype, const void* x_hat, std::int64_t count,
                       RowSums* sums) const = 0;

  /// Of all calls so far; zeros where rows do not leave the host's memory. Thread-safe.
  virtual DeviceSeconds device_seconds() const { return {}; }
};

/// Instruction sets that this machine can run, narrowest first: "scalar", "simd128", "avx2", "avx512".
std::vector<std::string> cpu_targets();

/// The CPU backend for one of cpu_targets(). Throws Error that lists them for any other name.
std::unique_ptr<Backend> make_cpu_backend(std::string_view target);

/// The widest target, or the one that the environment variable TQ_CPU names.
std::unique_ptr<Backend> make_cpu_backend();

/// rows [count][dim] of F32, F16 or BF16 -> coded, with the sketch where the scheme has one. Returns the first row that
/// cannot be coded, or -1. Thread-safe.
std::int64_t encode_rows(const Backend& backend, const Codec& codec, DType dtype, const void* rows, std::int64_t count,
                         CodedRows& coded);

/// Throws the Error for a row that a backend refused: what stands in `x` [dim], and what to do. `place` begins the
/// message, such as "dump.safetensors: k.0: head 1, token 7".
[[noreturn]] void report_refused_row(const std::string& place, const Scheme& scheme, std::span<const float> x);

/// What the decoded rows are for.
enum class Decode {
  kRow,          ///< the rows themselves: x_hat, the nearest that the codes give
  kInnerProduct  ///< inner products: x_hat with the sketch added, where there is one (Algorithm 2)
};

/// coded -> rows [count][dim] of F32, F16 or BF16, rounded to nearest even. Thread-safe.
void decode_rows(const Backend& backend, const Codec& codec, const CodedRows& coded, Decode purpose, DType dtype,
                 void* rows);

/// Adds the error of x_hat [count][dim] against x [count][dim], each of F32, F16 or BF16, to `stats`. Throws as
/// ErrorStats::add_sums().
void compare_rows(const Backend& backend, int dim, DType dtype, const void* x, DType hat_dtype, const void* x_hat,
                  std::int64_t count, ErrorStats& stats);

}  // namespace tq
