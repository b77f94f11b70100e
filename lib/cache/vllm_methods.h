// The TurboQuant caches of vLLM (--kv-cache-dtype turboquant_*), as its decode kernel reads them.
//
//   preset     keys                 values   slot at dim 128
//   k8v4       fp8 e4m3fn, scale 1  4 bits   128 + 64 + 4
//   4bit_nc    4 bits               4 bits   64 + 2 + 64 + 4
//   k3v4_nc    3 bits               4 bits   48 + 2 + 64 + 4
//   3bit_nc    3 bits               3 bits   48 + 2 + 48 + 4
//
// Keys of 3 and 4 bits: y = H x / (||x|| + 1e-8), H Sylvester's Hadamard matrix over sqrt(dim)
// without signs; a code is #{midpoints <= y}, so that a tie goes to the upper level (tq's go to the
// lower); levels are make_vllm_levels() (lib/solver/published.h). Stored are the codes and ||x|| in
// F16. Norm correction happens in the decoder: x_hat = ||x|| H c / sqrt(||c||^2 + 1e-16) with the
// levels c of the codes.
//
// Values of b bits, over the whole row: scale = max(1e-8, (max - min) / (2^b - 1)), code =
// trunc((x - min) / scale + 0.5), clamped; x_hat = code * scale + min with scale and min in F16.
//
// A slot holds key and value of a token and head, rounded up to an even number of bytes: the pad
// (which even rows have at dim 8 only) is counted with the values. All is float32, and x_hat is not
// rounded to F16, as it is where vLLM unpacks a long prefix. GPUs before compute capability 8.9
// store keys of k8v4 in another fp8 (e4b15), which is not simulated. Nor is a choice of layers:
// vLLM leaves the first two and the last two of a dense model in 16 bits.
#pragma once

#include <memory>
#include <string_view>

#include "lib/cache/cache_method.h"

namespace tq {

struct VllmMethods {
  std::shared_ptr<const CacheMethod> k, v;
};

/// preset: "turboquant_k8v4", "turboquant_4bit_nc", "turboquant_k3v4_nc" or "turboquant_3bit_nc",
/// else Error. Error for k_dim != v_dim, which share a slot; and, but for k8v4, unless the dim is a
/// power of two, since vLLM's matrix would not fit the row. round_trip() refuses a norm, scale or
/// minimum that overflows F16.
VllmMethods make_vllm_turboquant(std::string_view preset, int k_dim, int v_dim);

}  // namespace tq
