// Foreign codebooks: the published sets from their definitions, and the judgment of any set against
// sums of the test's own.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <boost/math/special_functions/erf.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <numbers>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lib/codebook.h"
#include "lib/error.h"
#include "lib/solver/judge.h"
#include "lib/solver/published.h"

using namespace tq;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Judgment judge(const std::vector<double>& levels, int dim = 128, Density density = Density::kBeta) {
  return judge_levels(scale_levels(levels, 1), density, dim);
}

std::vector<double> find_published(const std::string& id, int bits, int dim = 128) {
  for (const PublishedSet& set : list_published(dim, bits)) {
    if (set.id == id) return set.levels;
  }
  FAIL("no published set " << id);
  return {};
}

std::vector<std::string> ids_of(const Judgment& judgment) {
  std::vector<std::string> ids;
  for (const PublishedSet& set : judgment.recognized) ids.push_back(set.id);
  return ids;
}

bool says(const Judgment& judgment, const std::string& part, std::optional<double> claimed = {}) {
  const std::vector<std::string> lines = describe_judgment(judgment, claimed);
  return std::any_of(lines.begin(), lines.end(),
                     [&](const std::string& line) { return line.find(part) != line.npos; });
}

// D by the trapezoidal rule on the density as the paper writes it, to 1e-4: nothing of lib/solver.
double sum_distortion(const LevelSet& set, Density density, int dim) {
  const double d = dim;
  const double end = density == Density::kBeta ? 1 : 15 / std::sqrt(d);
  const double log_scale =
      density == Density::kBeta
          ? std::lgamma(d / 2) - std::lgamma((d - 1) / 2) - std::log(std::numbers::pi) / 2
          : std::log(d / (2 * std::numbers::pi)) / 2;
  constexpr int kSteps = 200000;
  double sum = 0;
  for (int i = 1; i < kSteps; ++i) {
    const double t = end * (2.0 * i / kSteps - 1);
    const double exponent =
        density == Density::kBeta ? (d - 3) / 2 * std::log1p(-t * t) : -d * t * t / 2;
    const auto code = std::lower_bound(set.edges.begin(), set.edges.end(), t) - set.edges.begin();
    const double error = t - set.levels[static_cast<std::size_t>(code)];
    sum += std::exp(log_scale + exponent) * error * error;
  }
  return sum * d * 2 * end / kSteps;
}

// The tables of turboquant-plus-vllm by their definition, from closed forms: start at the
// quantiles, 100 times the means of the standard normal's cells and their midpoints.
std::vector<float> make_vj_by_closed_form(int dim, int bits) {
  const std::size_t half = std::size_t{1} << (bits - 1);
  const double sigma = 1 / std::sqrt(static_cast<double>(dim));
  std::vector<double> edges(half + 1, 0.0);
  for (std::size_t i = 1; i < half; ++i) {
    edges[i] = std::numbers::sqrt2 * boost::math::erf_inv(static_cast<double>(i) / double(half));
  }
  edges[half] = kInfinity;
  std::vector<double> levels(half);
  auto density = [](double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi); };
  auto beyond = [](double x) { return std::erfc(x / std::numbers::sqrt2) / 2; };
  for (int sweep = 0; sweep < 100; ++sweep) {
    for (std::size_t i = 0; i < half; ++i) {
      levels[i] =
          (density(edges[i]) - density(edges[i + 1])) / (beyond(edges[i]) - beyond(edges[i + 1]));
    }
    for (std::size_t i = 1; i < half; ++i) edges[i] = (levels[i - 1] + levels[i]) / 2;
  }
  if (bits == 2) levels = {.453, 1.51};
  std::vector<float> positive;
  for (double level : levels) positive.push_back(static_cast<float>(level * sigma));
  return positive;
}

}  // namespace

TEST_CASE("compatibility tables are those of published checkpoints, bit for bit") {
  const std::map<std::string, std::vector<float>> published = {
      {"vj-d64-b2", {.05662500113248825f, .1887499988079071f}},
      {"vj-d64-b3",
       {.03063674457371235f, .0945005863904953f, .16798855364322662f, .2689931094646454f}},
      {"vj-d64-b4",
       {.015745362266898155f, .04761655256152153f, .08068577945232391f, .11596766114234924f,
        .15492233633995056f, .20002354681491852f, .25644221901893616f, .33964210748672485f}},
      {"vj-d128-b2", {.040039923042058945f, .13346640765666962f}},
      {"vj-d128-b3",
       {.021663449704647064f, .06682200729846954f, .11878585070371628f, .1902068555355072f}},
      {"vj-d128-b4",
       {.011133652180433273f, .03366998955607414f, .05705346167087555f, .08200152218341827f,
        .10954663157463074f, .14143800735473633f, .18133202195167542f, .24016323685646057f}},
      {"vj-d256-b2", {.028312500566244125f, .09437499940395355f}},
      {"vj-d256-b3",
       {.015318372286856174f, .04725029319524765f, .08399427682161331f, .1344965547323227f}},
      {"vj-d256-b4",
       {.007872681133449078f, .023808276280760765f, .04034288972616196f, .05798383057117462f,
        .07746116816997528f, .10001177340745926f, .12822110950946808f, .16982105374336243f}}};
  CHECK(published.size() == 9);
  for (const auto& entry : published) {
    const std::string& id = entry.first;  // no structured binding: clang 14 does not let CAPTURE see one
    const std::vector<float>& positive = entry.second;
    CAPTURE(id);
    const NamedCodebook found = find_codebook(id);
    CHECK(found.id == id);
    CHECK(found.frozen);
    CHECK(found.density == Density::kBeta);
    const SolvedCodebook again = make_vj_codebook(found.dim, found.table.bits);
    const std::vector<float> closed = make_vj_by_closed_form(found.dim, found.table.bits);
    const std::size_t half = positive.size();
    REQUIRE((std::size_t{1} << found.table.bits) == 2 * half);
    for (std::size_t i = 0; i < half; ++i) {
      const float level = found.table.levels[half + i];
      CHECK(std::bit_cast<std::uint32_t>(level) == std::bit_cast<std::uint32_t>(positive[i]));
      CHECK(found.table.levels[half - 1 - i] == -level);
      CHECK(again.levels[half + i] == static_cast<double>(level));
      CHECK(closed[i] == level);
    }
    CHECK(found.table.edges[half - 1] == 0.0f);
    CHECK(std::abs(found.distortion / table_distortion(found.table, Density::kBeta, found.dim) -
                   1) < 1e-7);
    CHECK(std::abs(again.distortion / found.distortion - 1) < 5.1e-9);
    CHECK(std::abs(again.entropy_bits / found.entropy_bits - 1) < 5.1e-9);
  }
  for (const char* id :
       {"vj-d128-b1", "vj-d128-b5", "vj-d32-b3", "vj-d128-b3 ", "vj", "vj-d128", "VJ-d128-b3"}) {
    CAPTURE(id);
    CHECK_THROWS_AS(find_codebook(id), Error);
  }
}

TEST_CASE("Lloyd's iteration from equal probabilities tends to Lloyd-Max") {
  for (Density density : {Density::kGaussian, Density::kBeta}) {
    const SolvedCodebook best = solve_codebook(density, 128, 3);
    double previous = 1;
    for (int sweeps : {1, 2, 10, 100}) {
      const double d =
          set_distortion(scale_levels(run_lloyd(density, 128, 3, sweeps), 1), density, 128);
      CHECK(d < previous);
      CHECK(d > best.distortion);
      previous = d;
    }
    const std::vector<double> converged = run_lloyd(density, 128, 3, 1000);
    for (std::size_t i = 0; i < 8; ++i) CHECK(std::abs(converged[i] - best.levels[i]) < 1e-14);
  }
  // Equally probable cells have, in units of sigma, these means: N(0, 1), 2 bits, by hand.
  const std::vector<double> two = run_lloyd(Density::kGaussian, 1, 2, 1);
  CHECK(std::abs(two[2] - 4 * (0.3989422804014327 - 0.3177765726841390)) < 1e-7);
  CHECK(std::abs(two[3] - 4 * 0.3177765726841390) < 1e-7);
}

TEST_CASE("a Gaussian cut at 3 sigma is solved for the part that is left") {
  for (int bits : {1, 3, 5, 8}) {
    CAPTURE(bits);
    const std::vector<double> cut = solve_cut_gaussian(1, bits, 3);
    const std::size_t half = cut.size() / 2;
    const UnitDensity<double> f(Density::kGaussian, 1);
    for (std::size_t i = half; i < cut.size(); ++i) {
      const double lo = i == half ? 0 : (cut[i - 1] + cut[i]) / 2;
      const double hi = i + 1 == cut.size() ? 3 : (cut[i] + cut[i + 1]) / 2;
      const CellMoments<double> cell = integrate_cell(f, lo, hi, cut[i]);
      CHECK(std::abs(cell.first / cell.mass) < 1e-13);
      CHECK(cut[i] == -cut[cut.size() - 1 - i]);
    }
    CHECK(cut.back() < solve_codebook(Density::kGaussian, 1, bits).levels.back());
    const double wide = solve_cut_gaussian(1, bits, 30).back();
    CHECK(std::abs(wide / solve_codebook(Density::kGaussian, 1, bits).levels.back() - 1) < 1e-12);
  }
}

TEST_CASE("published sets at dim 128: distortion, bound, and their names") {
  struct Row {
    const char* id;
    int bits;
    double distortion;  // as measured on the systems themselves, to its last digit
    double last_digit;
    bool exceeds;
  };
  for (const Row& row :
       {Row{"equal-probability", 2, .12854, 1e-5, false},
        Row{"equal-probability", 3, .04922, 1e-5, true},
        Row{"equal-probability", 4, .01948, 1e-5, true},
        Row{"gaussian-3-sigma", 2, .11609, 1e-5, false},
        Row{"gaussian-3-sigma", 3, .03416, 1e-5, false},
        Row{"gaussian-3-sigma", 4, .00966, 1e-5, false},
        Row{"gaussian-3-sigma", 5, .00287, 1e-5, true}, Row{"vj", 2, .11600, 1e-5, false},
        Row{"vj", 3, .03398, 1e-5, false}, Row{"vj", 4, .00932, 1e-5, false},
        Row{"vj", 5, .00271, 1e-5, true}, Row{"vj", 6, .000984, 1e-6, true},
        Row{"vj", 7, .000383, 1e-6, true}, Row{"vj", 8, .000154, 1e-6, true},
        Row{"beta", 3, .03397, 1e-5, false}, Row{"beta", 8, .0000402, 1e-7, false}}) {
    CAPTURE(row.id);
    CAPTURE(row.bits);
    const Judgment j = judge(find_published(row.id, row.bits));
    CHECK(std::abs(j.cost.distortion - row.distortion) < 0.51 * row.last_digit);
    CHECK(j.exceeds_bound() == row.exceeds);
    CHECK(says(j, "EXCEEDS Theorem 1's bound") == row.exceeds);
    CHECK(says(j, "within Theorem 1's bound") == !row.exceeds);
    const std::vector<std::string> ids = ids_of(j);
    CHECK(std::count(ids.begin(), ids.end(), row.id) == 1);
    CHECK(j.is_fixed_point() == (std::string(row.id) == "beta"));
    CHECK(j.is_symmetric());
    CHECK(j.has_midpoint_edges());
    CHECK(j.empty_cells == 0);
  }
  const Judgment cut = judge(find_published("gaussian-3-sigma", 4));
  CHECK(std::abs(cut.cost.ratio() - 1.037) < 5.1e-4);
  CHECK(std::abs(cut.cost.bits_lost() - std::log2(1.037) / 2) < 4e-4);
  CHECK(says(cut, "3.7 % more"));
  CHECK(std::abs(judge(find_published("equal-probability", 3)).cost.ratio() - 1.449) < 5.1e-4);
}

TEST_CASE("a published set is recognized within 1e-4 sigma and no further") {
  const std::vector<double> three = find_published("beta", 3);
  const double sigma = 1 / std::sqrt(128.0);
  CHECK(ids_of(judge(three)) == std::vector<std::string>{"beta"});
  for (auto [move, ids] : {std::pair{0.9e-4, std::vector<std::string>{"beta"}},
                           std::pair{-0.9e-4, std::vector<std::string>{"beta"}},
                           std::pair{1.1e-4, std::vector<std::string>{}}}) {
    std::vector<double> moved = three;
    moved[5] += move * sigma;
    const Judgment j = judge(moved);
    CHECK(ids_of(j) == ids);
    CHECK(!j.is_fixed_point());
    CHECK(!j.is_symmetric());
    CHECK(std::abs(j.asymmetry / std::abs(move) - 1) < 1e-6);
    CHECK(says(j, "not symmetric"));
  }
  CHECK(ids_of(judge(find_published("gaussian", 2))) == std::vector<std::string>{"gaussian"});
  CHECK(ids_of(judge(find_published("vj", 2))) == std::vector<std::string>{"vj"});
  CHECK(ids_of(judge(find_published("vj", 3))) == std::vector<std::string>{"gaussian", "vj"});
  CHECK(ids_of(judge(find_published("vj", 3), 64)).empty());  // another dim's scale
  // dim 1 is the standard normal: no sphere, no Beta.
  const Judgment normal = judge(find_published("gaussian", 2, 1), 1, Density::kGaussian);
  CHECK(ids_of(normal) == std::vector<std::string>{"gaussian"});
  CHECK(normal.is_fixed_point());
}

TEST_CASE("distortion of any set is the plain sum over the density") {
  const std::vector<double> odd = {-0.21, -0.04, 0.0, 0.17};
  for (const LevelSet& set : {scale_levels(odd, 1), LevelSet{odd, {-0.1, -0.05, 0.3}},
                              LevelSet{odd, {0.02, 0.03, 0.04}},  // levels outside of their cells
                              LevelSet{{0.3, 0.4}, {-0.2}}}) {
    for (Density density : {Density::kBeta, Density::kGaussian}) {
      for (int dim : {16, 128}) {
        const double sum = sum_distortion(set, density, dim);
        CHECK(std::abs(judge_levels(set, density, dim).cost.distortion / sum - 1) < 1e-4);
      }
    }
  }
}

TEST_CASE("the centroid violation of cells on either side of 0 and across it") {
  // N(0, 1): E[t | t < 1/2] = -phi / Phi = -0.5091604, and E[t | t > 1/2] = 1.1410778.
  const double phi = std::exp(-0.125) / std::sqrt(2 * std::numbers::pi);
  const double below = std::erfc(-0.5 / std::numbers::sqrt2) / 2;
  for (double side : {-1.0, 1.0}) {
    const LevelSet low = side > 0 ? LevelSet{{-1, 1}, {0.5}} : LevelSet{{-1, 1}, {-0.5}};
    CHECK(std::abs(judge_levels(low, Density::kGaussian, 1).centroid_violation -
                   (1 - phi / below)) < 1e-12);
    const LevelSet high = side > 0 ? LevelSet{{-0.5, 2}, {0.5}} : LevelSet{{-2, 0.5}, {-0.5}};
    CHECK(std::abs(judge_levels(high, Density::kGaussian, 1).centroid_violation -
                   (2 - phi / (1 - below))) < 1e-12);
  }
}

TEST_CASE("a set at the wrong scale is found and named") {
  for (int bits : {1, 3, 4, 8}) {
    for (double scale : {0.61, 1.7, 11.3137}) {
      CAPTURE(bits);
      CAPTURE(scale);
      const SolvedCodebook best = solve_codebook(Density::kBeta, 128, bits);
      const Judgment j = judge_levels(scale_levels(best.levels, scale), Density::kBeta, 128);
      CHECK(std::abs(j.best_scale * scale - 1) < 1e-6);
      CHECK(std::abs(j.best_scale_distortion / best.distortion - 1) < 1e-9);
      CHECK(j.is_scaled_optimum());
      CHECK(j.cost.ratio() > 1.1);
      CHECK(j.recognized.empty());
      CHECK(says(
          j, fmt::format("these are an optimal set's levels times {:.3f}: multiply them by {:.3f}",
                         scale, 1 / scale)));
    }
  }
  CHECK(judge(scale_levels(find_published("beta", 3), 0.61).levels).exceeds_bound());

  // At the right scale the best factor is 1, and there is nothing to say.
  for (int bits = 1; bits <= 8; ++bits) {
    const Judgment j = judge(solve_codebook(Density::kBeta, 128, bits).levels);
    CHECK(std::abs(j.best_scale - 1) < 1e-6);
    CHECK(!j.is_scaled_optimum());
    CHECK(j.is_fixed_point());
    CHECK(j.cost.ratio() < 1 + 1e-13);
    CHECK(says(j, "optimal: no other levels"));
    CHECK(!says(j, "times"));
  }
  // A set of another shape is not an optimal one at any scale, and a good one at a scale 1.6 % off
  // is not at fault.
  CHECK(!judge(find_published("equal-probability", 3)).is_scaled_optimum());
  CHECK(!judge(scale_levels(find_published("beta", 3), 1.016).levels).is_scaled_optimum());

  // The best scale is a minimum.
  const std::vector<double> odd = {-0.3, -0.02, 0.05, 0.06};
  const Judgment j = judge(odd);
  for (double away : {0.9, 0.999, 1.001, 1.1}) {
    CHECK(j.best_scale_distortion <
          set_distortion(scale_levels(odd, away * j.best_scale), Density::kBeta, 128));
  }
  CHECK(j.best_scale_distortion <= j.midpoint_distortion);
}

TEST_CASE("own edges are judged, and midpoints beside them") {
  const std::vector<double> levels = find_published("beta", 3);
  const double sigma = 1 / std::sqrt(128.0);
  LevelSet set = scale_levels(levels, 1);
  set.edges[5] += 0.2 * sigma;
  const Judgment j = judge_levels(set, Density::kBeta, 128);
  CHECK(!j.has_midpoint_edges());
  CHECK(std::abs(j.edge_deviation - 0.2) < 1e-12);
  CHECK(!j.is_fixed_point());
  CHECK(!j.is_symmetric());
  CHECK(std::abs(j.midpoint_distortion / solve_codebook(Density::kBeta, 128, 3).distortion - 1) <
        1e-12);
  CHECK(std::abs(j.cost.distortion / sum_distortion(set, Density::kBeta, 128) - 1) < 1e-4);
  CHECK(j.cost.distortion > 1.005 * j.midpoint_distortion);
  CHECK(j.cost.distortion < 1.5 * j.midpoint_distortion);
  CHECK(says(j, "edges are not the midpoints"));
  CHECK(says(j, "more distortion than the optimum"));
  CHECK(ids_of(j) == std::vector<std::string>{"beta"});
  CHECK(says(j, "the file states D = 0.03", 0.03));
  CHECK(!says(j, "the file states", j.cost.distortion * 1.0005));
}

TEST_CASE("sets without sense are judged without harm") {
  const Judgment far = judge({-2.0, 0.0, 2.0, 3.0});
  CHECK(far.empty_cells == 3);
  CHECK(std::abs(far.cost.distortion - 1) < 1e-12);
  CHECK(says(far, "3 of 4 codes never occur"));
  CHECK(far.exceeds_bound());
  for (const std::vector<double>& levels :
       std::vector<std::vector<double>>{{-1e-320, 1e-320},
                                        {0, 1e-300},
                                        {-3e38, 3e38},
                                        {-1e38, 0, 1e-38, 1},
                                        {1e-310, 1e-309, 1, 3e38},
                                        {5, 6}}) {
    CAPTURE(levels.front());
    const Judgment j = judge(levels);
    CHECK(std::isfinite(j.cost.distortion));
    CHECK(std::isfinite(j.best_scale));
    CHECK(j.best_scale_distortion <= j.midpoint_distortion);
    CHECK(j.best_scale_distortion > 0.3);
    CHECK(std::isfinite(j.centroid_violation));
  }
}
