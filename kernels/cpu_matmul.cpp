// Chooses the matrix product of the forward pass among the targets that were compiled in.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <string_view>

#include "kernels/cpu_features.h"
#include "lib/error.h"
#include "lib/model/matmul.h"

namespace tq {

#define TQ_DECLARE_TARGET(target)                 \
  namespace target {                              \
  void multiply_by_rows(const MatmulArgs& args);    \
  void multiply_by_columns(const MatmulArgs& args); \
  }
TQ_DECLARE_TARGET(scalar)
TQ_DECLARE_TARGET(simd128)
TQ_DECLARE_TARGET(avx2)
TQ_DECLARE_TARGET(avx512)
#undef TQ_DECLARE_TARGET

namespace {

struct Target {
  MatmulKernel kernel;
  bool (*runs_here)();
};

constexpr Target kTargets[] = {
    {{"scalar", scalar::multiply_by_rows, scalar::multiply_by_columns}, runs_always},
#if defined(TQ_HAVE_SIMD128)
    {{"simd128", simd128::multiply_by_rows, simd128::multiply_by_columns}, runs_always},
#endif
#if defined(TQ_HAVE_AVX2)
    {{"avx2", avx2::multiply_by_rows, avx2::multiply_by_columns}, has_avx2},
#endif
#if defined(TQ_HAVE_AVX512)
    {{"avx512", avx512::multiply_by_rows, avx512::multiply_by_columns}, has_avx512},
#endif
};

const MatmulKernel& choose() {
  const std::vector<const MatmulKernel*> kernels = matmul_kernels();
  const char* forced = std::getenv("TQ_CPU");
  if (forced == nullptr || *forced == '\0') return *kernels.back();
  for (const MatmulKernel* kernel : kernels) {
    if (std::string_view(kernel->name) == forced) return *kernel;
  }
  throw Error(fmt::format("TQ_CPU: CPU target '{}' is not to be had here", forced));
}

}  // namespace

std::vector<const MatmulKernel*> matmul_kernels() {
  std::vector<const MatmulKernel*> kernels;
  for (const Target& target : kTargets) {
    if (target.runs_here()) kernels.push_back(&target.kernel);
  }
  return kernels;
}

const MatmulKernel& matmul_kernel() {
  static const MatmulKernel& chosen = choose();
  return chosen;
}

}  // namespace tq
