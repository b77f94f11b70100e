// One row in the memory of one thread: what the plain kernels do for every row, and the fast ones for rows that they cannot take.
// Included by .cu files only.
#pragma once

#include "kernels/gpu_rows.h"
#include "kernels/gpu_target.h"
#include "lib/math/row.h"

namespace tq::cuda {

/// A codebook of at most four bits, in shared memory.
struct PlainCodebook {
  float levels[16];
  float edges[16];
};

/// Not inlined: one copy serves several kernels, which shortens the build.
template <int Bits>
__device__ __noinline__ void encode_one(const EncodeArgs& args, const float* edges, const float* levels, std::int64_t row, float* x,
                                        float* scratch, std::int32_t* words, unsigned long long* first_refused) {
  const int dim = args.rotation.dim;
  const int bytes = math::row_bytes(dim, Bits);
  load_row(args.dtype, args.rows + row * dim * element_bytes(args.dtype), dim, x);
  const math::CodeFinder<Bits, float> find_code(edges);
  const math::LevelTable<Bits, float> level_of(levels);
  const auto coded = math::encode_row<Bits>(x, args.rotation, find_code, level_of, args.rule, words, scratch);
  store_words(words, bytes, args.codes + row * bytes);
  args.norms[row] = coded.norm;
  if (coded.refused != 0) atomicMin(first_refused, static_cast<unsigned long long>(row));
}

template <int Bits>
__device__ __noinline__ void decode_one(const DecodeArgs& args, const Codebook& codebook, std::int64_t row, float* x,
                                        float* scratch, std::int32_t* words) {
  const int dim = args.rotation.dim;
  const int bytes = math::row_bytes(dim, Bits);
  load_words(args.codes + row * bytes, bytes, words);
  const math::LevelTable<Bits, float> level_of(codebook);
  math::decode_row<Bits>(words, args.norms[row], args.rotation, level_of, x, scratch);
  store_row(args.dtype, x, dim, args.rows + row * dim * element_bytes(args.dtype));
}

/// The same with memory of their own, for rows of at most 256 elements.
template <int Bits>
__device__ __noinline__ void encode_plain_row(const EncodeArgs& args, const float* edges, const float* levels, std::int64_t row,
                                              unsigned long long* first_refused) {
  float x[256], scratch[512];
  std::int32_t words[8 * Bits];
  encode_one<Bits>(args, edges, levels, row, x, scratch, words, first_refused);
}

template <int Bits>
__device__ __noinline__ void decode_plain_row(const DecodeArgs& args, const Codebook& codebook, std::int64_t row) {
  float x[256], scratch[512];
  std::int32_t words[8 * Bits];
  decode_one<Bits>(args, codebook, row, x, scratch, words);
}

}  // namespace tq::cuda
