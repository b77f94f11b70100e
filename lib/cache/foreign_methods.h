// Caches of other systems, simulated to their published arithmetic: by name, the method for the
// keys and the method for the values.
//
// Bytes of a token and head at dim 128, K and V; 16-bit rows take 512:
//
//   name                            K    V   sum  system, header
//   fp8                           128  128   256  vLLM `fp8`: e4m3fn, scale 1 (lib/cache/fp8.h)
//   fp8:scaled                    128  128   256  the same with a calibrated scale a tensor
//   q8_0                          136  136   272  llama.cpp (lib/cache/block_quant.h)
//   q5_1                           96   96   192
//   q5_0                           88   88   176
//   q4_1                           80   80   160
//   q4_0                           72   72   144
//   q8_0:rotated .. q4_0:rotated                  the same behind llama.cpp's rotation
//   kivi4                          80   80   160  KIVI (lib/cache/kivi.h), and its buffers:
//   kivi2                          48   48    96  128 tokens of K and of V in 16 bits
//   vllm:turboquant_k8v4          128   68   196  vLLM (lib/cache/vllm_methods.h)
//   vllm:turboquant_4bit_nc        66   68   134
//   vllm:turboquant_k3v4_nc        50   68   118
//   vllm:turboquant_3bit_nc        50   52   102
//
// Rows enter as float32. Where a system's own arithmetic is in F16 (KIVI) it is here; elsewhere a
// row is rounded only where the system stores 16 bits. That a model's own rows are BF16 or F16 is
// the caller's to simulate.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lib/cache/cache_method.h"

namespace tq {

struct CachePair {
  std::string name;
  std::shared_ptr<const CacheMethod> k, v;
};

/// All names, in the order above.
std::vector<std::string_view> foreign_cache_names();

/// The pair of that name for rows of k_dim and v_dim elements. UsageError that lists the names for
/// an unknown one; Error for a dim that the system refuses, and outside 8..1024.
CachePair make_foreign_cache(std::string_view name, int k_dim, int v_dim);

}  // namespace tq
