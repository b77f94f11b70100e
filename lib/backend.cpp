#include "lib/backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lib/convert.h"
#include "lib/error.h"

namespace tq {

std::int64_t encode_rows(const Backend& backend, const Codec& codec, DType dtype, const void* rows, std::int64_t count,
                         CodedRows& coded) {
  coded.resize(codec.scheme(), count);
  const std::int64_t refused = backend.encode(codec, dtype, rows, count, coded.codes.data(), coded.norms.data());
  if (refused >= 0 || !codec.scheme().qjl) return refused;
  std::vector<float> x_hat(static_cast<std::size_t>(count) * static_cast<std::size_t>(codec.scheme().dim));
  backend.decode(codec, coded.codes.data(), coded.norms.data(), count, DType::kF32, x_hat.data());
  return backend.sketch(codec, dtype, rows, x_hat.data(), count, coded.signs.data(), coded.residual_norms.data());
}

void report_refused_row(const std::string& place, const Scheme& scheme, std::span<const float> x) {
  const auto bad = std::find_if(x.begin(), x.end(), [](float value) { return !std::isfinite(value); });
  if (bad != x.end()) {
    throw Error(fmt::format("{}, channel {}: the value is {}; only finite values can be quantized, so look at the run "
                            "that captured it", place, bad - x.begin(), std::isnan(*bad) ? "NaN" : "infinite"));
  }
  constexpr double kUnderflowsF16 = 1.0;  // a norm that underflows F16 is below 6e-8, one that overflows above 65504
  double squares = 0;
  for (const float value : x) squares += static_cast<double>(value) * value;
  const bool underflows = scheme.norm_dtype == DType::kF16 && squares < kUnderflowsF16;
  throw Error(fmt::format("{}: the norm of the row {} {}; {}", place,
                          underflows ? "(or of its residual) is not 0 and becomes 0 in" : "overflows",
                          name_of(scheme.norm_dtype),
                          scheme.norm_dtype == DType::kF16 ? "use --norm-dtype f32" : "scale the tensor down"));
}

void decode_rows(const Backend& backend, const Codec& codec, const CodedRows& coded, Decode purpose, DType dtype,
                 void* rows) {
  if (purpose == Decode::kRow || !codec.scheme().qjl) {
    backend.decode(codec, coded.codes.data(), coded.norms.data(), coded.count, dtype, rows);
    return;
  }
  std::vector<float> x_hat(static_cast<std::size_t>(coded.count) * static_cast<std::size_t>(codec.scheme().dim));
  backend.decode(codec, coded.codes.data(), coded.norms.data(), coded.count, DType::kF32, x_hat.data());
  backend.add_sketches(codec, coded.signs.data(), coded.residual_norms.data(), coded.count, x_hat.data());
  convert_from_float(x_hat.data(), static_cast<std::int64_t>(x_hat.size()), dtype, rows);
}

void compare_rows(const Backend& backend, int dim, DType dtype, const void* x, DType hat_dtype, const void* x_hat,
                  std::int64_t count, ErrorStats& stats) {
  constexpr std::int64_t kAtOnce = 1024;
  std::vector<RowSums> sums(static_cast<std::size_t>(std::min(count, kAtOnce)));
  const auto* from = static_cast<const std::byte*>(x);
  const auto* hat = static_cast<const std::byte*>(x_hat);
  for (std::int64_t row = 0; row < count; row += kAtOnce) {
    const std::int64_t here = std::min(kAtOnce, count - row);
    backend.compare(dim, dtype, from + row * dim * static_cast<std::int64_t>(size_of(dtype)), hat_dtype,
                    hat + row * dim * static_cast<std::int64_t>(size_of(hat_dtype)), here, sums.data());
    stats.add_sums({sums.data(), static_cast<std::size_t>(here)}, dim);
  }
}

}  // namespace tq
