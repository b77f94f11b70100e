// The quantized KV caches of llama.cpp: blocks of 32 consecutive channels of a row.
//
//   format  bytes  d, m in F16             code                                 x_hat
//   q8_0       34  d = amax / 127          round(x / d), halves away from 0     code d
//   q5_0       22  d = extreme / -16       min(31, trunc(x / d + 16.5))         (code - 16) d
//   q4_0       18  d = extreme / -8        min(15, trunc(x / d + 8.5))          (code - 8) d
//   q5_1       24  d = (max - min) / 31,   min(31, trunc((x - m) / d + 0.5))    code d + m
//                  m = min
//   q4_1       20  d = (max - min) / 15,   min(15, trunc((x - m) / d + 0.5))    code d + m
//                  m = min
//
// amax is the largest |x|; extreme is the first x with |x| = amax, sign kept. This is the
// arithmetic of ggml's reference quantizers: codes are found with the float32 d and m, x / d being
// x * (1 / d), in float32 without contraction; x_hat is made of d and m as F16 holds them. Where d
// rounds to 0 in F16 all codes decode alike. ggml's vector kernels may round a tie of q8_0 the
// other way.
#pragma once

#include <memory>
#include <string_view>

#include "lib/cache/cache_method.h"

namespace tq {

/// The method of a format of the table, for rows of `dim`. rotation_block: 0, or the order of the
/// Hadamard matrix that each run of so many channels is multiplied with before (and, orthogonal and
/// symmetric, after). Error unless dim is a multiple of 32, as llama.cpp refuses it. Its
/// round_trip() refuses a d or m that overflows F16.
std::shared_ptr<const CacheMethod> make_block_quant(std::string_view format, int dim,
                                                    int rotation_block);

/// The rotation that llama.cpp from spring 2026 on (pull request 21038) puts before a quantized
/// cache by itself: Sylvester's Hadamard matrix over sqrt(order), of the largest order 64 2^n that
/// divides a key's dim, and of order 64 for a value. Error for a dim that is no multiple of 64,
/// which it leaves unrotated. (Queries and outputs are rotated alike, so the model sees x_hat.)
int llama_k_rotation(int dim);
int llama_v_rotation(int dim);

}  // namespace tq
