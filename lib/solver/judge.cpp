// The measures are sums over cells (lib/solver/level_set.h); only the best scale is searched for.
#include "lib/solver/judge.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <boost/math/tools/minima.hpp>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string_view>
#include <tuple>
#include <utility>

#include "lib/error.h"

namespace tq {
namespace {

constexpr double kLargestScaled = 1e100;  // its square does not overflow

double find_asymmetry(std::span<const double> values) {
  double worst = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    worst = std::max(worst, std::abs(values[i] + values[values.size() - 1 - i]));
  }
  return worst;
}

double find_deviation(std::span<const double> values, std::span<const double> others) {
  double worst = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    worst = std::max(worst, std::abs(values[i] - others[i]));
  }
  return worst;
}

// The least distortion of s * levels over s: a scan in eighths of an octave around the scale at
// which the median |level| is sigma, then Brent's method about the best of the scan and of s = 1.
std::pair<double, double> find_best_scale(std::span<const double> levels, Density density,
                                          int dim) {
  auto cost = [&](double s) { return set_distortion(scale_levels(levels, s), density, dim); };
  std::vector<double> sizes;
  for (double level : levels) sizes.push_back(std::abs(level));
  const auto middle = sizes.begin() + static_cast<std::ptrdiff_t>(sizes.size() / 2);
  std::nth_element(sizes.begin(), middle, sizes.end());
  const double start = UnitDensity<double>(density, dim).sigma() / *middle;
  const double largest = std::max(std::abs(levels.front()), std::abs(levels.back()));

  std::pair<double, double> best{1, cost(1)};
  auto keep = [&](double s, double distortion) {
    if (distortion < best.second) best = {s, distortion};
  };
  for (int step = -48; step <= 48; ++step) {
    const double s = start * std::exp2(step / 8.0);
    if (s * largest < kLargestScaled) keep(s, cost(s));
  }
  const double width = std::exp2(1 / 8.0);
  const auto [s, distortion] = boost::math::tools::brent_find_minima(
      cost, best.first / width, best.first * width, std::numeric_limits<double>::digits / 2);
  keep(s, distortion);
  return best;
}

void check_ascent(std::span<const double> values, std::string_view what, const std::string& where) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!(std::abs(values[i]) <= static_cast<double>(std::numeric_limits<float>::max()))) {
      throw Error(
          fmt::format("{}: {} {} is {}: must be finite in float32", where, what, i, values[i]));
    }
    if (i > 0 && !(values[i - 1] < values[i])) {
      throw Error(fmt::format("{}: {} {} is {}, after {}: must ascend", where, what, i, values[i],
                              values[i - 1]));
    }
  }
}

std::string describe_bound(const Judgment& j) {
  return j.exceeds_bound()
             ? fmt::format(
                   "EXCEEDS Theorem 1's bound, which every Lloyd-Max codebook of {} bits keeps",
                   j.bits)
             : std::string("within Theorem 1's bound");
}

std::string describe_cost(const Judgment& j) {
  const double ratio = j.cost.ratio();
  if (ratio < 1 + 1e-6) return "optimal: no other levels of these bits have a smaller distortion";
  return fmt::format("{:.{}f} % more distortion than the optimum, {:.4f} bits a coordinate lost",
                     100 * (ratio - 1), ratio < 1.001 ? 4 : 1, j.cost.bits_lost());
}

// A set that is recognized is not an optimal one, whatever its scale.
std::string describe_scale(const Judgment& j) {
  if (!j.recognized.empty()) {
    return fmt::format("multiplied by {:.3f} they come within 1 % of the optimum", j.best_scale);
  }
  return fmt::format("these are an optimal set's levels times {:.3f}: multiply them by {:.3f}",
                     1 / j.best_scale, j.best_scale);
}

}  // namespace

double Cost::ratio() const { return std::max(1.0, distortion / optimum); }

double Cost::bits_lost() const { return 0.5 * std::log2(ratio()); }

Cost find_cost(const LevelSet& set, Density density, int dim) {
  const int bits = std::countr_zero(set.levels.size());
  return {set_distortion(set, density, dim), solve_codebook(density, dim, bits).distortion};
}

bool Judgment::is_scaled_optimum() const {
  const double limit = 1.01 * cost.optimum;
  return best_scale_distortion < limit && midpoint_distortion > limit &&
         std::abs(best_scale - 1) > 0.01;
}

Judgment judge_levels(const LevelSet& set, Density density, int dim) {
  Judgment j{.density = density, .dim = dim, .bits = std::countr_zero(set.levels.size())};
  j.cost = find_cost(set, density, dim);
  const UnitDensity<double> f(density, dim);
  const std::vector<double> midpoints = find_midpoints(set.levels);
  j.asymmetry = std::max(find_asymmetry(set.levels), find_asymmetry(set.edges)) / f.sigma();
  j.edge_deviation = find_deviation(set.edges, midpoints) / f.sigma();
  for (std::size_t i = 0; i < set.levels.size(); ++i) {
    const CellMoments<double> cell = integrate_code(f, set, i);
    if (cell.mass > 0) {
      j.centroid_violation =
          std::max(j.centroid_violation, std::abs(cell.first / cell.mass) / f.sigma());
    } else {
      ++j.empty_cells;
    }
  }
  j.midpoint_distortion = set_distortion({set.levels, midpoints}, density, dim);
  std::tie(j.best_scale, j.best_scale_distortion) = find_best_scale(set.levels, density, dim);
  for (PublishedSet& published : list_published(dim, j.bits)) {
    if (find_deviation(set.levels, published.levels) <= kRecognizeTolerance * f.sigma()) {
      j.recognized.push_back(std::move(published));
    }
  }
  return j;
}

void check_levels(const LevelSet& set, const std::string& where) {
  const std::size_t count = set.levels.size();
  if (count < 2 || count > 256 || !std::has_single_bit(count)) {
    throw Error(fmt::format("{}: has {} levels: must be 2, 4, 8, ... 256", where, count));
  }
  check_ascent(set.levels, "level", where);
  if (set.edges.size() != count - 1) {
    throw Error(fmt::format("{}: has {} edges between {} levels: must be {}", where,
                            set.edges.size(), count, count - 1));
  }
  check_ascent(set.edges, "edge", where);
}

std::vector<std::string> describe_judgment(const Judgment& j, std::optional<double> claimed) {
  std::vector<std::string> lines{describe_bound(j), describe_cost(j)};
  for (const PublishedSet& set : j.recognized) lines.push_back("recognized: " + set.description);
  if (j.is_scaled_optimum()) lines.push_back(describe_scale(j));
  if (!j.has_midpoint_edges()) {
    lines.push_back(
        fmt::format("the edges are not the midpoints of the levels (off by {:.1e} sigma); "
                    "midpoints would give D = {:.6g}",
                    j.edge_deviation, j.midpoint_distortion));
  }
  if (!j.is_symmetric()) {
    lines.push_back(fmt::format("not symmetric: off by {:.1e} sigma", j.asymmetry));
  }
  if (j.empty_cells > 0) {
    lines.push_back(fmt::format("{} of {} codes never occur", j.empty_cells, 1 << j.bits));
  }
  if (claimed && !(std::abs(*claimed - j.cost.distortion) <= 1e-3 * j.cost.distortion)) {
    lines.push_back(
        fmt::format("the file states D = {:.6g}, and it is {:.6g}", *claimed, j.cost.distortion));
  }
  return lines;
}

}  // namespace tq
