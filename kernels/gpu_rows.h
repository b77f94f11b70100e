// A row in device memory to and from a thread's own x[] and words[]: lanes_io.h's counterpart for one row a thread.
// Nothing here computes a float; converting is lib/math's. Included by .cu files only.
#pragma once

#include "lib/dtype.h"
#include "lib/math/convert.h"

namespace tq::cuda {

/// Bytes of an element of F32, F16 or BF16. (size_of reads a table that lives on the host.)
TQ_HD int element_bytes(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

/// row: dim elements -> x[0..dim) as float32.
TQ_HD void load_row(DType dtype, const std::uint8_t* row, int dim, float* x) {
  const auto* floats = reinterpret_cast<const float*>(row);
  const auto* halves = reinterpret_cast<const std::uint16_t*>(row);
  if (dtype == DType::kF32) {
    for (int i = 0; i < dim; ++i) x[i] = floats[i];
  } else if (dtype == DType::kF16) {
    for (int i = 0; i < dim; ++i) x[i] = math::float_from_f16<std::int32_t>(halves[i]);
  } else {
    for (int i = 0; i < dim; ++i) x[i] = math::float_from_bf16<std::int32_t>(halves[i]);
  }
}

/// The inverse, rounding to nearest even.
TQ_HD void store_row(DType dtype, const float* x, int dim, std::uint8_t* row) {
  auto* floats = reinterpret_cast<float*>(row);
  auto* halves = reinterpret_cast<std::uint16_t*>(row);
  if (dtype == DType::kF32) {
    for (int i = 0; i < dim; ++i) floats[i] = x[i];
  } else if (dtype == DType::kF16) {
    for (int i = 0; i < dim; ++i) halves[i] = static_cast<std::uint16_t>(math::f16_from_float(x[i]));
  } else {
    for (int i = 0; i < dim; ++i) halves[i] = static_cast<std::uint16_t>(math::bf16_from_float(x[i]));
  }
}

/// codes: `bytes` bytes -> words; bytes past the end of the row are zero. Whole words where every row starts on one.
TQ_HD void load_words(const std::uint8_t* codes, int bytes, std::int32_t* words) {
  if (bytes % 4 == 0) {
    const auto* whole = reinterpret_cast<const std::int32_t*>(codes);
    for (int w = 0; w < bytes / 4; ++w) words[w] = whole[w];
    return;
  }
  for (int w = 0; w < (bytes + 3) / 4; ++w) words[w] = 0;
  for (int i = 0; i < bytes; ++i) words[i / 4] |= static_cast<std::int32_t>(codes[i]) << (8 * (i % 4));
}

/// The inverse.
TQ_HD void store_words(const std::int32_t* words, int bytes, std::uint8_t* codes) {
  if (bytes % 4 == 0) {
    auto* whole = reinterpret_cast<std::int32_t*>(codes);
    for (int w = 0; w < bytes / 4; ++w) whole[w] = words[w];
    return;
  }
  for (int i = 0; i < bytes; ++i) codes[i] = static_cast<std::uint8_t>(words[i / 4] >> (8 * (i % 4)));
}

}  // namespace tq::cuda
