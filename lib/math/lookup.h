// From a rotated value to its code and back. code = number of edges below the value, so a tie goes to the lower code.
//
// A search costs one comparison a bit. Where the machine permutes a whole register by an index register (AVX2, AVX-512),
// the edges of a level of the search, and the levels of the codebook, are looked up there, a lane each.
#pragma once

#include <algorithm>

#include "lib/codebook.h"
#include "lib/math/lanes.h"

namespace tq::math {
inline namespace TQ_TARGET {

/// Codes of rotated values. Made once per call of a kernel, then used for every element.
template <int Bits, class V>
class CodeFinder {
 public:
  using I = IntOf<V>;

  TQ_HD explicit CodeFinder(const Codebook& codebook) : CodeFinder(codebook.edges) {}

  /// edges: 2^Bits - 1
  TQ_HD explicit CodeFinder(const float* edges) : edges_(edges) {
    if constexpr (kPermutes) {
      for (int depth = 0; depth < Bits; ++depth) {
        float table[kLanes<V>] = {};
        const int step = 1 << (Bits - depth);  // between the codes that the search can have found so far
        for (int code = 0; code < 1 << Bits; code += step) table[code >> kHalved] = edges[code + step / 2 - 1];
        if (depth == 0) std::fill_n(table, kLanes<V>, table[0]);
        memcpy(&tables_[depth], table, sizeof(V));
      }
    }
  }

  /// The code of x in each lane, in [0, 2^Bits).
  TQ_HD I operator()(V x) const {
    if constexpr (kLanes<V> == 1) {
      return search(x);
    } else if constexpr (kPermutes) {
      I code = splat_int<I>(0);
      for (int depth = 0; depth < Bits; ++depth) {
        const V edge = depth == 0 ? tables_[0] : permute(tables_[depth], code);
        if (kHalved && depth == Bits - 1) code += code;
        code = or_where_greater(code, x, edge, weight(depth));
      }
      return code;
    } else if constexpr (Bits <= 4) {
      I code = splat_int<I>(0);
      for (int i = 0; i < (1 << Bits) - 1; ++i) code -= mask_greater(x, splat<V>(edges_[i]));
      return code;
    } else {
      I code = splat_int<I>(0);
      for (int lane = 0; lane < kLanes<V>; ++lane) code[lane] = search(x[lane]);
      return code;
    }
  }

 private:
  static constexpr bool kPermutes = kCanPermute<V> && (1 << (Bits - 1)) <= kLanes<V>;
  /// The last bit of a code never selects an edge; it is left out until the end where there are more codes than lanes.
  static constexpr bool kHalved = (1 << Bits) > kLanes<V>;

  /// What the bit found at `depth` adds to the code.
  static constexpr std::int32_t weight(int depth) { return depth == Bits - 1 ? 1 : (1 << (Bits - 1 - depth)) >> kHalved; }

  TQ_HD std::int32_t search(float x) const {
    std::int32_t code = 0;
    for (int step = 1 << (Bits - 1); step > 0; step >>= 1) code += x > edges_[code + step - 1] ? step : 0;
    return code;
  }

  const float* edges_;
  V tables_[kPermutes ? Bits : 1];  ///< the edges of each depth of the search, one a lane
};

/// Levels of codes: the inverse.
template <int Bits, class V>
class LevelTable {
 public:
  using I = IntOf<V>;

  TQ_HD explicit LevelTable(const Codebook& codebook) : LevelTable(codebook.levels) {}

  /// levels: 2^Bits
  TQ_HD explicit LevelTable(const float* levels) : levels_(levels) {
    if constexpr (kRegisters > 0) memcpy(tables_, levels_, sizeof(float) << Bits);
    if constexpr (kRegisters == 1) squares_ = tables_[0] * tables_[0];
    if constexpr (kRegisters == 2) tables_[1] = bits_as<V>(bits_as<I>(tables_[0]) ^ bits_as<I>(tables_[1]));
  }

  TQ_HD V operator()(I code) const {
    if constexpr (kLanes<V> == 1) {
      return levels_[code];
    } else if constexpr (kRegisters == 1) {
      return permute(tables_[0], code);
    } else if constexpr (kRegisters == 2) {
      const I upper = mask_greater_int(code, splat_int<I>(kLanes<V> - 1));
      return bits_as<V>(bits_as<I>(permute(tables_[0], code)) ^ (upper & bits_as<I>(permute(tables_[1], code))));
    } else {
      V level = splat<V>(0.0f);
      for (int lane = 0; lane < kLanes<V>; ++lane) level[lane] = levels_[code[lane]];
      return level;
    }
  }

  /// The level's square.
  TQ_HD V square(I code) const {
    if constexpr (kRegisters == 1) return permute(squares_, code);
    const V level = (*this)(code);
    return level * level;
  }

 private:
  /// Registers that hold all levels: one or two, else none are used.
  static constexpr int kNeeded = ((1 << Bits) + kLanes<V> - 1) / kLanes<V>;
  static constexpr int kRegisters = kCanPermute<V> && kNeeded <= 2 ? kNeeded : 0;

  const float* levels_;
  V squares_ = {};  ///< of the levels, where one register holds them
  V tables_[kRegisters > 0 ? kRegisters : 1] = {};  ///< of two, the second holds what turns the first's bits into its own
};

}  // namespace TQ_TARGET
}  // namespace tq::math
