// Compare on the CPU: a row at a time, along the row. Compiled once per target.
#include "lib/math/compare.h"

#include "kernels/cpu_target.h"

namespace tq::TQ_TARGET {
namespace {

template <DType kX, DType kHat>
void compare_all(const CompareArgs& args) {
  const std::int64_t x_bytes = args.dim * static_cast<std::int64_t>(size_of(kX));
  const std::int64_t hat_bytes = args.dim * static_cast<std::int64_t>(size_of(kHat));
  for (std::int64_t row = 0; row < args.count; ++row) {
    const std::uint8_t* x = args.x + row * x_bytes;
    const std::uint8_t* x_hat = args.x_hat + row * hat_bytes;
    args.sums[row] = math::compare_row(kX, x, kHat, x_hat, args.dim);
  }
}

template <DType kX>
void compare_with(const CompareArgs& args) {
  switch (args.hat_dtype) {
    case DType::kF32: return compare_all<kX, DType::kF32>(args);
    case DType::kF16: return compare_all<kX, DType::kF16>(args);
    default: return compare_all<kX, DType::kBf16>(args);
  }
}

}  // namespace

void compare_rows(const CompareArgs& args) {
  switch (args.dtype) {
    case DType::kF32: return compare_with<DType::kF32>(args);
    case DType::kF16: return compare_with<DType::kF16>(args);
    default: return compare_with<DType::kBf16>(args);
  }
}

}  // namespace tq::TQ_TARGET
