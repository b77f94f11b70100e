#include "lib/verify/paper_theorems.h"

#include <fmt/format.h>

#include <algorithm>
#include <numbers>

namespace tq {
namespace {

constexpr std::int64_t kClusterRows = 512;
constexpr std::int64_t kSketchRows = 256;  // of a cluster with a sketch, whose rows cost dim^2
constexpr std::int64_t kSketchShare = 4;   // of the rows of a measurement
constexpr std::int64_t kSpikes = 16;
constexpr std::int64_t kRowsOfRotation = 512;  // of a measurement's rows: so many more rotations
constexpr double kQueryCosine = 0.8;
constexpr double kMostSlopeError = 0.01;
constexpr double kMostRelativeError =
    0.02;  // of a distortion; of one that few rotations give, or a sketch, more:
constexpr double kMostSpikeError = 0.05;
constexpr double kMostVarianceError = 0.1;
constexpr double kScaledLevels =
    0.61;  // a codebook whose levels are those of another scale, as published ones had
constexpr double kDoubledSketch = 2;
constexpr std::int64_t kControlShare = 8;  // of the rows, where what is broken is seen at once

std::uint32_t seed_of(const PaperSettings& settings, std::int64_t cluster) {
  return settings.seed * 7919u + static_cast<std::uint32_t>(cluster) * 2u + 1u;
}

/// Sums of |x - x_hat|^2 / |x|^2 over the rows of a cluster.
ClusterSums sum_errors(const Backend& backend, int dim, const std::vector<float>& x,
                       const std::vector<float>& x_hat) {
  ClusterSums sums;
  std::vector<RowSums> rows(x.size() / static_cast<std::size_t>(dim));
  backend.compare(dim, DType::kF32, x.data(), DType::kF32, x_hat.data(),
                  static_cast<std::int64_t>(rows.size()), rows.data());
  for (const RowSums& row : rows) {
    sums.y += row.error_energy / row.x_energy;
    sums.x += 1;
    ++sums.samples;
  }
  return sums;
}

struct ProductSums {
  ClusterSums slope, variance;
};

/// x_hat stands for x in inner products with queries of their own for each row.
ProductSums sum_products(int dim, std::uint32_t seed, std::uint32_t stream,
                         const std::vector<float>& x, const std::vector<float>& x_hat) {
  ProductSums sums;
  const auto count = static_cast<std::int64_t>(x.size()) / dim;
  const std::vector<float> queries = draw_rows(seed, stream, count, dim);
  for (std::int64_t row = 0; row < count; ++row) {
    const float* at = x.data() + row * dim;
    const float* hat = x_hat.data() + row * dim;
    const float* y = queries.data() + row * dim;
    const double x_norm = std::sqrt(inner_product(at, at, dim));
    const double y_norm = std::sqrt(inner_product(y, y, dim));
    const double self = inner_product(at, hat, dim) / (x_norm * x_norm);  // <x, x_hat> of a unit x
    const double exact = inner_product(y, at, dim) / (x_norm * y_norm);   // of a unit y
    const double estimate = inner_product(y, hat, dim) / (x_norm * y_norm);
    sums.variance.y += dim * (exact - estimate) * (exact - estimate);
    sums.variance.x += 1;
    ++sums.variance.samples;
    const double side = std::sqrt(1 - kQueryCosine * kQueryCosine);
    const double near = kQueryCosine + side * exact;
    sums.slope.x += near * near;
    sums.slope.y += near * (kQueryCosine * self + side * estimate);
    ++sums.slope.samples;
  }
  return sums;
}

InnerProducts measure_products(const Backend& backend, const PaperSubject& subject,
                               const Scheme& scheme, bool codes, const PaperSettings& settings) {
  const int dim = scheme.dim;
  const Codec base = subject.make_codec(scheme);
  const std::int64_t clusters = settings.rows / kSketchShare / kSketchRows;
  std::vector<ClusterSums> variance(static_cast<std::size_t>(clusters));
  const auto slope = measure_clusters(settings.threads, clusters, [&](std::int64_t cluster) {
    const std::uint32_t seed = seed_of(settings, cluster);
    const Codec codec = base.with_seed(seed).with_sketch_seed(seed + 1);
    const auto stream = static_cast<std::uint32_t>(2 * cluster);
    const std::vector<float> x = draw_rows(settings.seed, stream, kSketchRows, dim);
    std::vector<float> x_hat(x.size(), 0.0f);
    if (codes || subject.exact || subject.shuffled) {
      x_hat = round_trip(backend, subject, codec, x);
    } else {
      std::vector<std::uint8_t> signs(static_cast<std::size_t>(kSketchRows * scheme.sign_bytes()));
      std::vector<float> norms(static_cast<std::size_t>(kSketchRows));
      backend.sketch(codec, DType::kF32, x.data(), x_hat.data(), kSketchRows, signs.data(),
                     norms.data());
      for (float& norm : norms) norm = static_cast<float>(norm * subject.sketch_factor);
      backend.add_sketches(codec, signs.data(), norms.data(), kSketchRows, x_hat.data());
    }
    const ProductSums sums = sum_products(dim, settings.seed, stream + 1, x, x_hat);
    variance[static_cast<std::size_t>(cluster)] = sums.variance;
    return sums.slope;
  });
  return {estimate_ratio(slope), estimate_ratio(variance)};
}

Scheme sketch_scheme(int bits, int dim) {
  Scheme scheme = default_scheme(bits, dim);
  scheme.qjl = 1;  // each cluster has its own
  return scheme;
}

PaperSettings fewer_rows(PaperSettings settings) {
  settings.rows = std::max<std::int64_t>(settings.rows / kControlShare, 16 * kClusterRows);
  return settings;
}

/// A check of the theorems, judged; and its control.
class Checks {
 public:
  Checks(int dim, int bits, std::uint32_t seed) : dim_(dim), bits_(bits), seed_(seed) {}

  void add(const std::string& name, const std::string& claim, const Estimate& measured,
           const PaperLimits& limits, const std::string& control,
           const Estimate& control_measured) {
    PaperCheck check;
    check.name = name;
    check.claim = claim;
    check.dim = dim_;
    check.bits = bits_;
    check.seed = seed_;
    check.measured = measured;
    check.limits = limits;
    check.verdict = judge_estimate(measured, limits);
    check.control = control;
    check.control_measured = control_measured;
    check.control_noticed = judge_estimate(control_measured, limits) == PaperVerdict::kViolated;
    checks_.push_back(check);
  }
  std::vector<PaperCheck> take() { return std::move(checks_); }

 private:
  int dim_, bits_;
  std::uint32_t seed_;
  std::vector<PaperCheck> checks_;
};

void check_mse(Checks& checks, const Backend& backend, const PaperSubject& subject, int dim,
               int bits, const PaperSettings& settings) {
  const double d =
      table_distortion(find_codebook(Density::kBeta, dim, bits).table, Density::kBeta, dim);
  PaperLimits limits;
  limits.exact = d;
  limits.upper = theorem1_bound(bits);
  limits.most_error = kMostRelativeError * d;
  PaperSubject scaled = subject;
  scaled.level_factor *= kScaledLevels;
  const Estimate mse = measure_mse(backend, subject, dim, bits, settings);
  checks.add("theorem-1", "D_mse is the codebook's D, and at most sqrt(3) pi/2 4^-b", mse, limits,
             "levels times 0.61", measure_mse(backend, scaled, dim, bits, fewer_rows(settings)));

  PaperSubject unrotated = subject;
  unrotated.rotation = RotationKind::kIdentity;
  limits.most_error = kMostSpikeError * d;
  checks.add("theorem-1-any-row", "the same of rows with one loud channel, over Haar rotations",
             measure_mse_of_spikes(backend, subject, dim, bits, settings), limits, "no rotation",
             measure_mse_of_spikes(backend, unrotated, dim, bits, fewer_rows(settings)));

  PaperLimits lower;
  lower.lower = shannon_bound(bits);
  PaperSubject cheat = subject;
  cheat.more_bits = bits < kMaxBits ? 1 : 0;
  cheat.exact = bits == kMaxBits;
  checks.add("theorem-3", "D_mse is above 4^-b", mse, lower,
             cheat.exact ? "rows that were not coded" : "one bit more than is said",
             measure_mse(backend, cheat, dim, bits, fewer_rows(settings)));
}

void check_products(Checks& checks, const Backend& backend, const PaperSubject& subject, int dim,
                    int bits, const PaperSettings& settings) {
  const bool alone = bits == 1;
  const auto measure = [&](const PaperSubject& who, const PaperSettings& how) {
    return alone ? measure_qjl(backend, who, dim, how) : measure_prod(backend, who, dim, bits, how);
  };
  const std::string stem = alone ? "qjl" : "theorem-2";
  const InnerProducts found = measure(subject, settings);
  PaperLimits slope;
  slope.exact = 1;
  slope.most_error = kMostSlopeError;
  PaperSubject small = subject;
  small.sketch_factor /= std::sqrt(dim);
  checks.add(stem + "-slope", "<y, x_hat> on <y, x> has the slope 1", found.slope, slope,
             fmt::format("sketch {:.1f} times too small", std::sqrt(dim)),
             measure(small, settings).slope);

  const double codes = alone ? 1
                             : table_distortion(find_codebook(Density::kBeta, dim, bits - 1).table,
                                                Density::kBeta, dim);
  PaperLimits variance;
  variance.exact = (std::numbers::pi / 2 - 1.0 / dim) * codes;
  variance.upper = alone ? std::numbers::pi / 2 : 2 * std::numbers::pi * theorem1_bound(bits);
  variance.most_error = kMostVarianceError * variance.exact;
  PaperSubject large = subject;
  large.sketch_factor *= kDoubledSketch;
  checks.add(stem + "-variance",
             alone ? "d D_prod / |y|^2 is pi/2 - 1/d, at most pi/2"
                   : "d D_prod / |y|^2 is (pi/2 - 1/d) D_mse(b-1), at most sqrt(3) pi^2 4^-b",
             found.variance, variance, "sketch twice too large",
             measure(large, fewer_rows(settings)).variance);

  PaperLimits lower;
  lower.lower = shannon_bound(bits);
  PaperSubject exact = subject;
  exact.exact = true;
  checks.add("theorem-3-prod", "d D_prod / |y|^2 is above 4^-b", found.variance, lower,
             "rows that were not coded", measure(exact, fewer_rows(settings)).variance);
}

}  // namespace

Estimate measure_mse(const Backend& backend, const PaperSubject& subject, int dim, int bits,
                     const PaperSettings& settings) {
  const Codec base = subject.make_codec(default_scheme(bits, dim));
  return estimate_ratio(
      measure_clusters(settings.threads, settings.rows / kClusterRows, [&](std::int64_t cluster) {
        const std::vector<float> x =
            draw_rows(settings.seed, static_cast<std::uint32_t>(cluster), kClusterRows, dim);
        return sum_errors(
            backend, dim, x,
            round_trip(backend, subject, base.with_seed(seed_of(settings, cluster)), x));
      }));
}

Estimate measure_mse_of_spikes(const Backend& backend, const PaperSubject& subject, int dim,
                               int bits, const PaperSettings& settings) {
  constexpr float kQuiet = 0.02f;
  std::vector<float> x = draw_rows(settings.seed, 0, kSpikes, dim);
  for (float& value : x) value *= kQuiet;
  for (std::int64_t row = 0; row < kSpikes; ++row)
    x[static_cast<std::size_t>(row * dim + row * dim / kSpikes)] = 1;
  const Codec base = subject.make_codec(default_scheme(bits, dim, RotationKind::kQr));
  return estimate_ratio(measure_clusters(
      settings.threads, settings.rows / kRowsOfRotation, [&](std::int64_t cluster) {
        return sum_errors(
            backend, dim, x,
            round_trip(backend, subject, base.with_seed(seed_of(settings, cluster)), x));
      }));
}

InnerProducts measure_prod(const Backend& backend, const PaperSubject& subject, int dim, int bits,
                           const PaperSettings& settings) {
  return measure_products(backend, subject, sketch_scheme(bits - 1, dim), true, settings);
}

InnerProducts measure_qjl(const Backend& backend, const PaperSubject& subject, int dim,
                          const PaperSettings& settings) {
  return measure_products(backend, subject, sketch_scheme(1, dim), false, settings);
}

std::vector<PaperCheck> check_theorems(const Backend& backend, const PaperSubject& subject, int dim,
                                       int bits, const PaperSettings& settings) {
  Checks checks(dim, bits, settings.seed);
  check_mse(checks, backend, subject, dim, bits, settings);
  check_products(checks, backend, subject, dim, bits, settings);
  return checks.take();
}

}  // namespace tq
