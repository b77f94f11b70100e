// What a CPU target offers. encode.cpp, search.cpp, decode.cpp, qjl.cpp, compare.cpp and hash.cpp are compiled once per target, each time with another
// TQ_TARGET, which names the namespace; cpu_backend.cpp chooses among them at run time. Fewer rows than
// TQ_LANES are the scalar target's: it writes the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "lib/codebook.h"
#include "lib/dtype.h"
#include "lib/math/scale_search.h"
#include "lib/measure/row_sums.h"

namespace tq {

struct EncodeArgs {
  math::RotationView rotation;
  const Codebook* codebook;
  math::NormRule rule;
  DType dtype;               ///< F32, F16 or BF16
  const std::uint8_t* rows;  ///< [count][dim]
  std::int64_t count;
  std::uint8_t* codes;  ///< [count][row_bytes]
  float* norms;         ///< [count]
};

struct DecodeArgs {
  math::RotationView rotation;
  const Codebook* codebook;
  DType dtype;
  const std::uint8_t* codes;
  const float* norms;
  std::int64_t count;
  std::uint8_t* rows;
};

/// x_hat holds the reconstructed rows in float32; add_sketches() changes it.
struct SketchArgs {
  const float* s;  ///< [dim][dim]
  int dim;
  bool f16_norms;
  DType dtype;
  const std::uint8_t* rows;  ///< [count][dim]; not used by add_sketches()
  float* x_hat;              ///< [count][dim]
  std::int64_t count;
  std::uint8_t* signs;  ///< [count][ceil(dim / 8)]
  float* norms;         ///< [count]: of the residuals
};

struct CompareArgs {
  int dim;
  DType dtype;            ///< of x: F32, F16 or BF16
  const std::uint8_t* x;  ///< [count][dim]
  DType hat_dtype;
  const std::uint8_t* x_hat;
  std::int64_t count;
  RowSums* sums;  ///< [count]
};

// Those that return a number return the first row that cannot be coded, or -1. search_rows() is encode_rows() with the
// scale search; of args.rule it takes the type of the norms, which are least-squares.
#define TQ_DECLARE_TARGET(target)                                                    \
  namespace target {                                                                 \
  std::int64_t encode_rows(const EncodeArgs& args);                                  \
  std::int64_t search_rows(const EncodeArgs& args, const math::ScaleSearch& search); \
  void decode_rows(const DecodeArgs& args);                                          \
  std::int64_t sketch_rows(const SketchArgs& args);                                  \
  void add_sketches(const SketchArgs& args);                                         \
  void compare_rows(const CompareArgs& args);                                        \
  std::uint64_t hash_bytes(const void* bytes, std::size_t count);                    \
  }
TQ_DECLARE_TARGET(scalar)
TQ_DECLARE_TARGET(simd128)
TQ_DECLARE_TARGET(avx2)
TQ_DECLARE_TARGET(avx512)
#undef TQ_DECLARE_TARGET

}  // namespace tq
