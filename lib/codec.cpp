#include "lib/codec.h"

#include <fmt/format.h>

#include "lib/error.h"

namespace tq {
namespace {

Codebook table_of(const Scheme& scheme) {
  const NamedCodebook named = find_codebook(scheme.codebook);
  if (named.table.bits != scheme.bits) {
    throw Error(fmt::format("codebook {} has {} bits, and the scheme has {}", scheme.codebook, named.table.bits,
                            scheme.bits));
  }
  return named.table;
}

}  // namespace

Codec::Codec(const Scheme& scheme)
    : scheme_(scheme),
      codebook_(table_of(scheme)),
      rotation_(scheme.rotation, scheme.seed, scheme.dim),
      distortion_(table_distortion(codebook_, Density::kBeta, scheme.dim)) {}

Codec::Codec(const Scheme& scheme, const Codebook& codebook, std::vector<float> matrix, const std::string& where)
    : scheme_(scheme),
      codebook_(codebook),
      rotation_(scheme.rotation, scheme.seed, scheme.dim, std::move(matrix), where),
      distortion_(table_distortion(codebook_, Density::kBeta, scheme.dim)) {
  if (codebook.bits != scheme.bits) {
    throw Error(fmt::format("{}: the codebook has {} bits, and the scheme says {}", where, codebook.bits, scheme.bits));
  }
}

Codec Codec::with_seed(std::uint32_t seed) const {
  Codec other = *this;
  other.scheme_.seed = seed;
  other.rotation_ = Rotation(scheme_.rotation, seed, scheme_.dim);
  return other;
}

}  // namespace tq
