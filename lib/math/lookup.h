// From a rotated value to its code and back. code = number of edges below the value, so a tie goes to the lower code.
#pragma once

#include "lib/codebook.h"
#include "lib/math/lanes.h"

namespace tq::math {
inline namespace TQ_TARGET {

/// The code of x: binary search over the 2^Bits - 1 ascending edges, one comparison a bit. Codes lie in [0, 2^Bits).
template <int Bits, class V>
TQ_HD IntOf<V> find_code(V x, const float* edges) {
  using I = IntOf<V>;
  constexpr int kCount = (1 << Bits) - 1;
  I code = splat_int<I>(0);
  if constexpr (kLanes<V> == 1) {
    for (int step = 1 << (Bits - 1); step > 0; step >>= 1) {
      if (x > edges[code + step - 1]) code += step;
    }
  } else {
    for (int i = 0; i < kCount; ++i) code -= mask_greater(x, splat<V>(edges[i]));
  }
  return code;
}

/// The level of each lane's code.
template <class V>
TQ_HD V level_of(IntOf<V> code, const float* levels) {
  if constexpr (kLanes<V> == 1) {
    return levels[code];
  } else {
    V level;
    for (int lane = 0; lane < kLanes<V>; ++lane) level[lane] = levels[code[lane]];
    return level;
  }
}

}  // namespace TQ_TARGET
}  // namespace tq::math
