#include "lib/pack/padded_groups.h"

#include <algorithm>
#include <cstring>

#include "lib/math/scale_search.h"

namespace tq {
namespace {

/// Codes equal under edges that are moved apart and together by the margin are codes of values that keep it.
Codec with_edges(const Codec& codec, float factor) {
  Codebook codebook = codec.codebook();
  for (int edge = 0; edge + 1 < 1 << codebook.bits; ++edge) codebook.edges[edge] *= factor;
  return Codec(codec.scheme(), codebook, {}, {}, "edges with a margin");
}

}  // namespace

PaddedGroups::PaddedGroups(const Codec& codec)
    : wide_(with_edges(codec, 1 + math::kEdgeMargin)), narrow_(with_edges(codec, 1 - math::kEdgeMargin)) {
  for (int effort = codec.effort() - 1; effort >= 0; --effort) fallbacks_.push_back(codec.with_effort(effort));
}

std::vector<bool> PaddedGroups::find_stable(const Backend& backend, std::int64_t count, std::int64_t values,
                                            const std::uint8_t* codes, const float* norms) const {
  const Scheme& scheme = wide_.scheme();
  const auto lines = static_cast<std::size_t>(count);
  const auto dim = static_cast<std::size_t>(scheme.dim);
  const auto code_bytes = static_cast<std::size_t>(scheme.code_bytes());
  std::vector<std::uint16_t> decoded(lines * dim);
  backend.decode(wide_, codes, norms, count, DType::kBf16, decoded.data());
  for (std::size_t line = 0; line < lines; ++line) {
    std::fill(decoded.data() + line * dim + values, decoded.data() + (line + 1) * dim, std::uint16_t{0});
  }
  std::vector<bool> stable(lines, true);
  std::vector<std::uint8_t> again(lines * code_bytes);
  std::vector<float> ignored(lines);
  for (const Codec* codec : {&wide_, &narrow_}) {
    const std::int64_t refused = backend.encode(*codec, DType::kBf16, decoded.data(), count, again.data(), ignored.data());
    for (std::size_t line = 0; line < lines; ++line) {
      const bool same = std::memcmp(codes + line * code_bytes, again.data() + line * code_bytes, code_bytes) == 0;
      stable[line] = stable[line] && refused < 0 && same;
    }
  }
  return stable;
}

void PaddedGroups::settle(const Backend& backend, DType dtype, const std::byte* groups, std::int64_t count, std::int64_t values,
                          std::uint8_t* codes, float* norms) const {
  const auto code_bytes = static_cast<std::size_t>(wide_.scheme().code_bytes());
  const std::size_t group_bytes = static_cast<std::size_t>(wide_.scheme().dim) * size_of(dtype);
  std::vector<std::size_t> left;  // groups without stable codes
  const std::vector<bool> stable = find_stable(backend, count, values, codes, norms);
  for (std::size_t i = 0; i < stable.size(); ++i) {
    if (!stable[i]) left.push_back(i);
  }
  std::vector<std::byte> rows;
  std::vector<std::uint8_t> other_codes;
  std::vector<float> other_norms;
  for (const Codec& codec : fallbacks_) {
    if (left.empty()) return;
    rows.resize(left.size() * group_bytes);
    other_codes.resize(left.size() * code_bytes);
    other_norms.resize(left.size());
    for (std::size_t i = 0; i < left.size(); ++i) {
      std::memcpy(rows.data() + i * group_bytes, groups + left[i] * group_bytes, group_bytes);
    }
    const auto lines = static_cast<std::int64_t>(left.size());
    backend.encode(codec, dtype, rows.data(), lines, other_codes.data(), other_norms.data());
    const std::vector<bool> settled = find_stable(backend, lines, values, other_codes.data(), other_norms.data());
    std::vector<std::size_t> unsettled;
    for (std::size_t i = 0; i < left.size(); ++i) {
      if (!settled[i]) unsettled.push_back(left[i]);
      if (!settled[i] && codec.effort() > 0) continue;
      std::memcpy(codes + left[i] * code_bytes, other_codes.data() + i * code_bytes, code_bytes);
      norms[left[i]] = other_norms[i];
    }
    left = std::move(unsettled);
  }
}

}  // namespace tq
