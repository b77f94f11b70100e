// What a CPU target offers. encode.cpp and decode.cpp are compiled once per target, each time with another TQ_TARGET,
// which names the namespace; cpu_backend.cpp chooses among them at run time.
#pragma once

#include <cstdint>

#include "lib/codebook.h"
#include "lib/dtype.h"
#include "lib/math/rotation.h"

namespace tq {

struct EncodeArgs {
  math::RotationView rotation;
  const Codebook* codebook;
  DType dtype;                ///< F32, F16 or BF16
  const std::uint8_t* rows;   ///< [count][dim]
  std::int64_t count;
  std::uint8_t* codes;        ///< [count][row_bytes]
  float* norms;               ///< [count]
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

#define TQ_DECLARE_TARGET(target)                                                     \
  namespace target {                                                                  \
  std::int64_t encode_rows(const EncodeArgs& args); /* first refused row, or -1 */    \
  void decode_rows(const DecodeArgs& args);                                           \
  }
TQ_DECLARE_TARGET(scalar)
TQ_DECLARE_TARGET(simd128)
TQ_DECLARE_TARGET(avx2)
TQ_DECLARE_TARGET(avx512)
#undef TQ_DECLARE_TARGET

}  // namespace tq
