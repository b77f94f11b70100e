// Rows in their coded form, in memory: what goes between a backend and a file. Streams, not interleaved: at dim 128 and
// 3 bits a row of codes is 48 = 3 x 16 bytes.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/scheme.h"

namespace tq {

struct CodedRows {
  std::int64_t count = 0;
  std::vector<std::uint8_t> codes;    ///< [count][scheme.code_bytes()]
  std::vector<float> norms;           ///< [count], values that the scheme's norm_dtype holds
  std::vector<std::uint8_t> signs;    ///< [count][ceil(dim / 8)]; empty without QJL
  std::vector<float> residual_norms;  ///< [count]; empty without QJL

  /// Makes room for `rows` rows of the scheme.
  void resize(const Scheme& scheme, std::int64_t rows);
};

}  // namespace tq
