#include "lib/codec.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lib/error.h"
#include "lib/math/scale_search.h"

namespace tq {
namespace {

constexpr std::uint32_t kSimulationSeed = 20250428;
constexpr int kSimulatedValues = 1 << 20;
constexpr int kFewestRows = 512;

Codebook table_of(const Scheme& scheme) {
  const NamedCodebook named = find_codebook(scheme.codebook);
  if (named.table.bits != scheme.bits) {
    throw Error(fmt::format("codebook {} has {} bits, and the scheme has {}", scheme.codebook, named.table.bits,
                            scheme.bits));
  }
  return named.table;
}

/// |u - factor c|^2 of a unit row u with levels c, from the three sums over the row.
double row_error(double uu, double uc, double cc, double factor) { return uu - 2 * factor * uc + factor * factor * cc; }

/// The error of one row under `mode`, less its error under the raw mode.
double error_beyond_raw(const double* u, int dim, const Codebook& codebook, NormMode mode) {
  double uc = 0;
  double cc = 0;
  const float* edges_end = codebook.edges + (1 << codebook.bits) - 1;
  for (int i = 0; i < dim; ++i) {
    const auto code = std::lower_bound(codebook.edges, edges_end, u[i]) - codebook.edges;
    const auto level = static_cast<double>(codebook.levels[code]);
    uc += u[i] * level;
    cc += level * level;
  }
  const double factor = mode == NormMode::kCorrected ? 1 / std::sqrt(cc) : uc / cc;
  return row_error(1, uc, cc, factor) - row_error(1, uc, cc, 1);
}

/// expected_distortion() of the tables of native TQ3, which costs more than packing a small tensor. A test computes them again.
struct FrozenDistortion {
  std::string_view codebook;
  double corrected;
  double least_squares;
};
constexpr FrozenDistortion kFrozenDistortions[] = {
    {"vj-d64-b2", 0.11650204355844587, 0.11297100621233931},   {"vj-d64-b3", 0.032846061585793951, 0.032559087951167215},
    {"vj-d64-b4", 0.0088668072617590667, 0.008845547051028909}, {"vj-d128-b2", 0.11884040796269597, 0.11522844551373557},
    {"vj-d128-b3", 0.033814908787263454, 0.033517933296870556}, {"vj-d128-b4", 0.00917381231947767, 0.0091516379236420489},
    {"vj-d256-b2", 0.11999262496366467, 0.11634364738771688},   {"vj-d256-b3", 0.034335163258234234, 0.034032759753763853},
    {"vj-d256-b4", 0.0093463799347983066, 0.0093237702709060895}};

/// Of a scheme whose table is the one of that name.
double distortion_of(const Scheme& scheme, const Codebook& codebook) {
  for (const FrozenDistortion& frozen : kFrozenDistortions) {
    if (scheme.codebook != frozen.codebook || scheme.norm == NormMode::kRaw) continue;
    return scheme.norm == NormMode::kCorrected ? frozen.corrected : frozen.least_squares;
  }
  return expected_distortion(codebook, scheme.dim, scheme.norm).value;
}

}  // namespace

std::vector<float> make_sketch_matrix(std::uint32_t seed, int dim) {
  const std::vector<double> normals = draw_normals(seed, dim * dim);
  std::vector<float> matrix(normals.size());
  std::transform(normals.begin(), normals.end(), matrix.begin(), [](double x) { return static_cast<float>(x); });
  return matrix;
}

ExpectedDistortion expected_distortion(const Codebook& codebook, int dim, NormMode mode) {
  const double raw = table_distortion(codebook, Density::kBeta, dim);
  if (mode == NormMode::kRaw) return {raw, 0};
  const int rows = std::max(kFewestRows, kSimulatedValues / dim);
  std::vector<double> normals = draw_normals(kSimulationSeed, rows * dim);
  double sum = 0;
  double squares = 0;
  for (int row = 0; row < rows; ++row) {
    double* u = normals.data() + static_cast<std::ptrdiff_t>(row) * dim;
    double energy = 0;
    for (int i = 0; i < dim; ++i) energy += u[i] * u[i];
    for (int i = 0; i < dim; ++i) u[i] /= std::sqrt(energy);
    const double difference = error_beyond_raw(u, dim, codebook, mode);
    sum += difference;
    squares += difference * difference;
  }
  const double mean = sum / rows;
  return {raw + mean, std::sqrt(std::max(0.0, squares / rows - mean * mean) / rows)};
}

Codec::Codec(const Scheme& scheme)
    : scheme_(scheme),
      codebook_(table_of(scheme)),
      rotation_(scheme.rotation, scheme.seed, scheme.dim),
      distortion_(distortion_of(scheme, codebook_)) {
  if (scheme.qjl) sketch_ = make_sketch_matrix(*scheme.qjl, scheme.dim);
}

Codec::Codec(const Scheme& scheme, const Codebook& codebook, std::vector<float> matrix, std::vector<float> sketch,
             const std::string& where)
    : scheme_(scheme),
      codebook_(codebook),
      rotation_(scheme.rotation, scheme.seed, scheme.dim, std::move(matrix), where),
      sketch_(std::move(sketch)),
      distortion_(expected_distortion(codebook_, scheme.dim, scheme.norm).value) {
  if (codebook.bits != scheme.bits) {
    throw Error(fmt::format("{}: the codebook has {} bits, and the scheme says {}", where, codebook.bits, scheme.bits));
  }
  const auto dim = static_cast<std::size_t>(scheme.dim);
  if (sketch_.size() != (scheme.qjl ? dim * dim : 0)) {
    throw Error(fmt::format("{}: the sketch matrix does not fit the scheme", where));
  }
  if (!std::all_of(sketch_.begin(), sketch_.end(), [](float x) { return std::isfinite(x); })) {
    throw Error(fmt::format("{}: the sketch matrix holds a value that is not finite", where));
  }
}

Codec Codec::with_seed(std::uint32_t seed) const {
  Codec other = *this;
  other.scheme_.seed = seed;
  other.rotation_ = Rotation(scheme_.rotation, seed, scheme_.dim);
  return other;
}

Codec Codec::with_effort(int effort) const {
  if (effort < 0 || effort > math::kMaxEffort) {
    throw Error(fmt::format("effort {}: it is 0 to {}", effort, math::kMaxEffort));
  }
  if (effort > 0 && scheme_.norm != NormMode::kLeastSquares) {
    throw Error(fmt::format("effort {}: goes with norm=least-squares, and the scheme has norm={}", effort,
                            name_of(scheme_.norm)));
  }
  Codec other = *this;
  other.effort_ = effort;
  return other;
}

Codec Codec::with_sketch_seed(std::uint32_t seed) const {
  Codec other = *this;
  other.scheme_.qjl = seed;
  other.sketch_ = make_sketch_matrix(seed, scheme_.dim);
  return other;
}

Codec Codec::plain() const {
  Codec other = *this;
  other.scheme_.norm_dtype = DType::kF32;
  other.scheme_.qjl.reset();
  other.sketch_.clear();
  return other;
}

}  // namespace tq
