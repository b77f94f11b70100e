// Foreign codebooks: the published sets from their definitions, the judgment of any set against
// sums of its own, and the text forms.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <boost/math/special_functions/erf.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "lib/codebook.h"
#include "lib/error.h"
#include "lib/solver/codebook_text.h"
#include "lib/solver/judge.h"
#include "lib/solver/published.h"
#include "tests/io_helpers.h"

using namespace tq;
using namespace tq::test;

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
  for (const auto& [id, positive] : published) {
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

TEST_CASE("tables are read in three forms") {
  const Scratch scratch;
  const std::string path = scratch / "table";
  auto read = [&](const std::string& text, const TableHints& hints = {}) {
    put_file(path, text);
    return read_table(path, hints);
  };
  const TableHints at_128{128, {}, {}};

  TableFile file = read(" -0.1,\n+1.0e-1\t", at_128);
  CHECK(file.format == "list");
  CHECK(file.set.levels == std::vector<double>{-0.1, 0.1});
  CHECK(file.set.edges == std::vector<double>{0.0});
  CHECK(!file.has_edges);
  CHECK(!file.claimed_distortion);
  CHECK(file.density == Density::kBeta);
  CHECK(read("\n[-0.1, 0.1]", at_128).set.levels == file.set.levels);
  file = read("-1 1", {64, Density::kGaussian, true});
  CHECK(file.set.levels == std::vector<double>{-0.125, 0.125});
  CHECK(file.density == Density::kGaussian);
  CHECK(read("-1 1", {64, {}, false}).set.levels == std::vector<double>{-1, 1});

  // What is written is read back, to the last bit.
  for (const char* id : {"beta-d128-b3", "gaussian-d64-b4", "vj-d256-b2", "beta-d9-b8"}) {
    CAPTURE(id);
    const NamedSolution named = solve_named(id);
    file = read(format_tq_json(named));
    CHECK(file.format == "tq-json");
    CHECK(file.density == named.book.density);
    CHECK(file.dim == named.book.dim);
    CHECK(file.set.levels == named.book.levels);
    CHECK(file.set.edges == named.book.edges);
    CHECK(file.has_edges);
    CHECK(file.claimed_distortion == named.book.distortion);
    file = read(format_0xsero_json(named));
    CHECK(file.format == "0xsero-json");
    CHECK(file.density == Density::kBeta);
    CHECK(file.dim == named.book.dim);
    CHECK(file.set.levels == named.book.levels);
    CHECK(file.set.edges == named.book.edges);
    CHECK(file.claimed_distortion == named.book.distortion);
  }
  // A claim holds for its own density alone; mse_per_coord stands in for mse_total.
  const std::string theirs =
      R"({"centroids": [-1e-1, 0.1], "boundaries": [-1, 0, 1.0], "mse_per_coord": 0.25, "d": 8)";
  CHECK(read(theirs + "}").claimed_distortion == 2);
  CHECK(read(theirs + R"(, "mse_total": 3, "bits": 1})").claimed_distortion == 3);
  CHECK(!read(theirs + "}", {{}, Density::kGaussian, {}}).claimed_distortion);
  CHECK(!read(R"({"centroids": [-0.1, 0.1]})", at_128).has_edges);
  CHECK(read(R"({"levels": [-0.1, 0.1], "dim": 1, "density": "gaussian"})").dim == 1);
}

TEST_CASE("what is no table is refused in one line that names the file") {
  const Scratch scratch;
  const std::string path = scratch / "table";
  auto refused = [&](const std::string& text, const std::string& part,
                     TableHints hints = {128, {}, {}}) {
    CAPTURE(text);
    put_file(path, text);
    const std::string error = error_of([&] { read_table(path, hints); });
    check_contains(error, path + ": ");
    check_contains(error, part);
  };
  refused("", "empty");
  refused(" \n\t", "empty");
  refused("0.1", "1 levels");
  refused("1 2 3 4 5 6 7", "7 levels");
  refused("[]", "0 levels");
  refused("1 0", "after 1: must ascend");
  refused("0.1 0.1", "must ascend");
  refused("-1 nan", "level 1 is nan");
  refused("-inf 1", "level 0 is -inf");
  refused("-1 1e39", "must be finite");
  refused("-1 1e999", "\"1e999\" at byte 3");
  refused("-1 1x", "\"1x\" at byte 3");
  refused("-1 + 1", "\"+\" at byte 3");
  refused("-1; 1", "\"-1;\"");
  refused(std::string("-1 \0 1", 6), "is not a number");
  refused("-1 \x1b[31m1", "\\u001b");
  refused("[-1, NaN]", "not JSON at byte");
  refused("[-1, 1", "not JSON at byte");
  refused("[-1, 1] 2", "not JSON at byte");
  refused("[-1, 1e999]", "overflows");
  refused("[-1, \"1\"]", "the array holds something at index 1");
  refused("[-1, null]", "no number");
  refused(std::string(100000, '['), "not JSON");
  refused("{}", "neither \"levels\" nor \"centroids\"");
  refused(R"({"levels": 3})", "levels is not an array");
  refused(R"({"levels": [-1, 1], "edges": [0, 0.5]})", "2 edges between 2 levels: must be 1");
  refused(R"({"levels": [-1, 0, 1, 2], "edges": [0.5, 0, 1]})", "edge 1 is 0, after 0.5");
  refused(R"({"levels": [-1, 1], "edges": [1e99]})", "edge 0");
  refused(R"({"levels": [-1, 1], "bits": 2})", "2 bits");
  refused(R"({"levels": [-1, 1], "bits": "1"})", "\"bits\" is not a number");
  refused(R"({"levels": [-1, 1], "density": "laplace"})", "\"density\"");
  refused(R"({"levels": [-1, 1], "density": 3})", "\"density\"");
  refused(R"({"levels": [-1, 1], "dim": 64})", "dim 64, and --dim says 128");
  refused(R"({"levels": [-1, 1], "dim": 64.5})", "dim 64.5", {});
  refused(R"({"levels": [-1, 1], "dim": 1e300})", "8..1024", {});
  refused(R"({"levels": [-1, 1], "dim": -128})", "8..1024", {});
  refused(R"({"levels": [-1, 1], "dim": 1})", "8..1024", {});
  refused(R"({"centroids": [-0.1, 0.1], "boundaries": [-1, 0, 2]})", "from -1 to 1");
  refused(R"({"centroids": [-0.1, 0.1], "boundaries": [0]})", "from -1 to 1");
  refused(R"({"centroids": [-0.1, 0.1], "boundaries": [-1, 1]})", "0 edges");
  refused("-1 1", "give --dim", {});
  refused("-1 1", "8..1024", {7, {}, {}});
  refused(R"({"levels": [-1, 1]})", "--scale is for lists", {128, {}, true});
  refused(std::string((1 << 20) + 1, ' '), "at most 1048576");
  check_contains(error_of([&] { read_table(scratch / "none", {}); }), "none");
  check_contains(error_of([&] { read_table(scratch.dir.string(), {}); }), "directory");
}

TEST_CASE("0xsero-json is the object of 0xSero's files, with their numbers") {
  struct Row {
    const char* id;
    double mse_total;                   // as published, to six digits
    std::vector<double> positive = {};  // to seven; their iteration ends before it converges
  };
  for (const Row& row :
       {Row{"beta-d128-b1", .360889, {.0706616}},
        Row{"beta-d128-b2", .116000, {.0399909, .1330402}},
        Row{"beta-d128-b3", .033966, {.0216025, .0665806, .1181330, .1883906}},
        Row{"beta-d128-b4",
            .009315,
            {.0112965, .0341340, .0577445, .0827926, .1102471, .1417617, .1807937, .2376272}},
        Row{"beta-d64-b1", .358387}, Row{"beta-d64-b2", .114526}, Row{"beta-d64-b3", .033391},
        Row{"beta-d64-b4", .009132}, Row{"beta-d576-b3", .034418}}) {
    CAPTURE(row.id);
    const NamedSolution named = solve_named(row.id);
    const auto json = nlohmann::ordered_json::parse(format_0xsero_json(named));
    std::vector<std::string> keys;
    for (const auto& item : json.items()) keys.push_back(item.key());
    CHECK(keys == std::vector<std::string>{"centroids", "boundaries", "mse_per_coord", "mse_total",
                                           "d", "bits"});
    CHECK(json["d"] == named.book.dim);
    CHECK(json["bits"] == named.book.bits);
    CHECK(std::abs(json["mse_total"].get<double>() - row.mse_total) < 5.1e-7);
    CHECK(json["mse_per_coord"].get<double>() * named.book.dim ==
          doctest::Approx(json["mse_total"].get<double>()).epsilon(1e-15));
    const auto centroids = json["centroids"].get<std::vector<double>>();
    const auto boundaries = json["boundaries"].get<std::vector<double>>();
    REQUIRE(boundaries.size() == centroids.size() + 1);
    CHECK(json["boundaries"].front().is_number_float());
    CHECK(boundaries.front() == -1.0);
    CHECK(boundaries.back() == 1.0);
    for (std::size_t i = 0; i + 1 < centroids.size(); ++i) {
      CHECK(boundaries[i + 1] == (centroids[i] + centroids[i + 1]) / 2);
    }
    for (std::size_t i = 0; i < row.positive.size(); ++i) {
      const double tolerance = named.book.bits == 4 ? 5e-5 : 1e-5;
      CHECK(std::abs(centroids[centroids.size() / 2 + i] - row.positive[i]) < tolerance);
    }
  }
  CHECK_THROWS_AS(format_0xsero_json(solve_named("gaussian-d8-b8")), UsageError);
  CHECK_THROWS_AS(format_0xsero_json(solve_named("gaussian-d1-b2")), UsageError);
}

TEST_CASE("an id is printed with what it gives away on the sphere") {
  const auto print = [](const char* id) {
    return nlohmann::json::parse(format_tq_json(solve_named(id)));
  };
  CHECK(print("beta-d128-b3")["ratio_to_optimum"] == doctest::Approx(1).epsilon(1e-12));
  CHECK(std::abs(print("vj-d128-b4")["ratio_to_optimum"].get<double>() - 1.00097) < 5.1e-6);
  const auto gaussian = print("gaussian-d128-b4");
  CHECK(std::abs(gaussian["distortion"].get<double>() - .009501) < 5.1e-7);
  CHECK(std::abs(gaussian["sphere_distortion"].get<double>() - .00932486) < 5.1e-9);
  CHECK(std::abs(gaussian["bits_lost"].get<double>() - std::log2(1.00108) / 2) < 1e-5);
  CHECK(print("gaussian-d1-b2")["ratio_to_optimum"].is_null());
  CHECK_THROWS_AS(solve_named("vj-d128-b5"), Error);
}
