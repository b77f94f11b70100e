// What the simulations of other systems share: a walk over rows, and numbers stored in F16.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "lib/error.h"
#include "lib/math/convert.h"

namespace tq {

/// Nearest F16, ties to even; overflow becomes infinity.
inline float round_to_f16(float x) { return math::float_from_f16(math::f16_from_float(x)); }

/// A row, named for the message of an Error.
struct RowPlace {
  const std::string& where;
  std::int64_t head;
  std::int64_t token;

  /// round_to_f16(x); Error where that is infinite. `what`, such as "the norm", begins a sentence.
  float store_f16(float x, std::string_view what) const {
    const float stored = round_to_f16(x);
    if (std::isfinite(stored)) return stored;
    throw Error(
        fmt::format("{}: head {}, token {}: {} is {:.6g}, and the cache stores it as F16, which "
                    "ends at 65504: leave this cache out for such rows",
                    where, head, token, what, x));
  }
};

/// work(row, row of x_hat, place) for all rows of x and x_hat [heads][tokens][dim].
template <class Work>
void for_each_row(std::span<const float> x, std::int64_t heads, std::int64_t tokens, int dim,
                  std::span<float> x_hat, const std::string& where, const Work& work) {
  const auto size = static_cast<std::size_t>(dim);
  std::size_t at = 0;
  for (std::int64_t head = 0; head < heads; ++head) {
    for (std::int64_t token = 0; token < tokens; ++token, at += size) {
      work(x.subspan(at, size), x_hat.subspan(at, size), RowPlace{where, head, token});
    }
  }
}

/// heads * tokens * row_bytes.
inline std::uint64_t count_rows(std::int64_t heads, std::int64_t tokens, std::int64_t row_bytes) {
  return static_cast<std::uint64_t>(heads * tokens * row_bytes);
}

}  // namespace tq
