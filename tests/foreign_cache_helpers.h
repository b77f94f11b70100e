// Rows through the caches of other systems: what their tests share.
#pragma once

#include <doctest/doctest.h>

#include <limits>
#include <vector>

#include "lib/cache/cache_method.h"

namespace tq {

/// x there and back, as "k.0".
inline std::vector<float> code(const CacheMethod& method, const std::vector<float>& x,
                        std::int64_t heads = 1, std::int64_t tokens = 1) {
  std::vector<float> x_hat(x.size(), std::numeric_limits<float>::quiet_NaN());
  method.round_trip(x, heads, tokens, x_hat, "k.0");
  return x_hat;
}

inline void check_equal(const std::vector<float>& ours, const std::vector<float>& theirs) {
  REQUIRE(ours.size() == theirs.size());
  for (std::size_t i = 0; i < ours.size(); ++i) {
    CAPTURE(i);
    REQUIRE(ours[i] == theirs[i]);
  }
}

}  // namespace tq
