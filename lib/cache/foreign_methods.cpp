#include "lib/cache/foreign_methods.h"

#include <fmt/format.h>

#include <utility>

#include "lib/cache/block_quant.h"
#include "lib/cache/fp8.h"
#include "lib/cache/kivi.h"
#include "lib/cache/vllm_methods.h"
#include "lib/error.h"
#include "lib/scheme.h"

namespace tq {
namespace {

struct ForeignCache {
  std::string_view name;
  CachePair (*make)(std::string_view name, int k_dim, int v_dim);
};

CachePair make_fp8(std::string_view name, int k_dim, int v_dim) {
  const Fp8Scale scale = name == "fp8" ? Fp8Scale::kOne : Fp8Scale::kCalibrated;
  return {std::string(name), make_fp8_method(scale, k_dim), make_fp8_method(scale, v_dim)};
}

CachePair make_blocks(std::string_view name, int k_dim, int v_dim) {
  return {std::string(name), make_block_quant(name, k_dim, 0), make_block_quant(name, v_dim, 0)};
}

CachePair make_rotated_blocks(std::string_view name, int k_dim, int v_dim) {
  const std::string_view format = name.substr(0, name.find(':'));
  return {std::string(name), make_block_quant(format, k_dim, llama_k_rotation(k_dim)),
          make_block_quant(format, v_dim, llama_v_rotation(v_dim))};
}

CachePair make_kivi(std::string_view name, int k_dim, int v_dim) {
  const int bits = name.back() - '0';
  return {std::string(name), make_kivi_keys(bits, k_dim), make_kivi_values(bits, v_dim)};
}

CachePair make_vllm(std::string_view name, int k_dim, int v_dim) {
  const std::string_view preset = name.substr(name.find(':') + 1);
  VllmMethods methods = make_vllm_turboquant(preset, k_dim, v_dim);
  return {std::string(name), std::move(methods.k), std::move(methods.v)};
}

constexpr ForeignCache kCaches[] = {
    {"fp8", make_fp8},
    {"fp8:scaled", make_fp8},
    {"q8_0", make_blocks},
    {"q5_1", make_blocks},
    {"q5_0", make_blocks},
    {"q4_1", make_blocks},
    {"q4_0", make_blocks},
    {"q8_0:rotated", make_rotated_blocks},
    {"q5_1:rotated", make_rotated_blocks},
    {"q5_0:rotated", make_rotated_blocks},
    {"q4_1:rotated", make_rotated_blocks},
    {"q4_0:rotated", make_rotated_blocks},
    {"kivi4", make_kivi},
    {"kivi2", make_kivi},
    {"vllm:turboquant_k8v4", make_vllm},
    {"vllm:turboquant_4bit_nc", make_vllm},
    {"vllm:turboquant_k3v4_nc", make_vllm},
    {"vllm:turboquant_3bit_nc", make_vllm},
};

}  // namespace

std::vector<std::string_view> foreign_cache_names() {
  std::vector<std::string_view> names;
  for (const ForeignCache& cache : kCaches) names.push_back(cache.name);
  return names;
}

CachePair make_foreign_cache(std::string_view name, int k_dim, int v_dim) {
  for (const ForeignCache& cache : kCaches) {
    if (cache.name != name) continue;
    for (const int dim : {k_dim, v_dim}) {
      if (dim < kMinDim || dim > kMaxRowDim) {
        throw Error(fmt::format("{}: rows of {}: must be {}..{}", name, dim, kMinDim, kMaxRowDim));
      }
    }
    return cache.make(name, k_dim, v_dim);
  }
  std::string known;
  for (const ForeignCache& cache : kCaches) {
    known += fmt::format("{}{}", known.empty() ? "" : ", ", cache.name);
  }
  throw UsageError(fmt::format("unknown cache '{}': use one of {}", name, known));
}

}  // namespace tq
