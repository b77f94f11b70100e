// Searched codes (--effort 1..3) for groups that end in padding. The search of lib/math/scale_search.h accepts a scale only if
// the decoded group gets the same codes when it is quantized again. A group that ends in padding is decoded, cut to its row and
// padded with zeros again before it meets an encoder, so for such groups the decision is made here, on what is decoded.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/backend.h"

namespace tq {

/// Thread-safe.
class PaddedGroups {
 public:
  /// `codec` has least-squares norms and an effort of 1..3.
  explicit PaddedGroups(const Codec& codec);

  /// Groups with `values` values each, then zeros: groups [count][dim] of `dtype`, and what the codec made of them in codes and
  /// norms. Keeps codes that are stable: decoded, rounded to BF16, cut and padded again, each rotated value lies in the cell of
  /// its code and 0.5 % away from the edges. Others give way to those of the next lower effort that are, and to those of effort 0
  /// where none is. Every value can be coded: encode() has accepted the groups.
  void settle(const Backend& backend, DType dtype, const std::byte* groups, std::int64_t count, std::int64_t values,
              std::uint8_t* codes, float* norms) const;

 private:
  std::vector<bool> find_stable(const Backend& backend, std::int64_t count, std::int64_t values, const std::uint8_t* codes,
                                const float* norms) const;

  std::vector<Codec> fallbacks_;  ///< of lower efforts, 0 last
  Codec wide_, narrow_;           ///< nearest levels, with edges 0.5 % farther from zero, and nearer
};

}  // namespace tq
