// The Lloyd-Max solver and the frozen codebooks: golden values, an independent closed form, and
// every frozen bit.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <boost/math/special_functions/beta.hpp>
#include <boost/math/special_functions/gamma.hpp>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "lib/codebook.h"
#include "lib/error.h"
#include "lib/solver/density.h"
#include "lib/solver/freeze.h"
#include "lib/solver/lloyd_max.h"

using namespace tq;

namespace {

struct Shipped {
  Density density;
  int dim;
};

std::vector<Shipped> list_shipped() {
  std::vector<Shipped> list{{Density::kGaussian, 1}};
  for (int dim : kShippedDims) list.push_back({Density::kBeta, dim});
  return list;
}

std::vector<float> round_levels(const SolvedCodebook& book, double scale = 1) {
  std::vector<float> levels;
  for (double level : book.levels) levels.push_back(static_cast<float>(scale * level));
  return levels;
}

// Checks the positive half of `levels`, in units of sigma, to half a unit of the golden value's
// last digit.
void check_levels(const SolvedCodebook& book, const std::vector<double>& golden, double tolerance) {
  const std::size_t half = book.levels.size() / 2;
  REQUIRE(golden.size() == half);
  for (std::size_t i = 0; i < half; ++i) {
    CHECK(std::abs(book.levels[half + i] * std::sqrt(book.dim) - golden[i]) < tolerance);
  }
}

void check_structure(const SolvedCodebook& book) {
  const std::size_t count = std::size_t{1} << book.bits;
  REQUIRE(book.levels.size() == count);
  REQUIRE(book.edges.size() == count - 1);
  CHECK(book.edges[count / 2 - 1] == 0.0);
  CHECK(book.centroid_violation <= 1e-12);
  if (book.bits == 8) CHECK(book.centroid_violation > 0);  // doubles cannot meet it exactly
  bool antisymmetric = true;
  bool interleaved = true;
  for (std::size_t i = 0; i < count; ++i) {
    antisymmetric &= book.levels[i] == -book.levels[count - 1 - i];
    if (i + 1 == count) break;
    interleaved &= book.levels[i] < book.edges[i] && book.edges[i] < book.levels[i + 1];
    interleaved &= book.edges[i] == (book.levels[i] + book.levels[i + 1]) / 2;
  }
  CHECK(antisymmetric);
  CHECK(interleaved);
  CHECK(book.distortion < theorem1_bound(book.bits));
  CHECK(book.distortion > shannon_bound(book.bits));
  CHECK(book.entropy_bits <= book.bits + 1e-12);
  CHECK(book.entropy_bits > book.bits - 0.35);
}

// E[t | lo < t < hi], 0 <= lo, from the antiderivatives: no quadrature.
long double mean_by_closed_form(Density density, int dim, long double lo, long double hi) {
  const long double d = dim;
  if (density == Density::kGaussian) {
    const long double a = lo * std::sqrt(d / 2);
    const long double b = hi * std::sqrt(d / 2);
    const long double first =
        (std::exp(-a * a) - std::exp(-b * b)) / std::sqrt(2 * std::numbers::pi_v<long double> * d);
    return first / ((std::erfc(a) - std::erfc(b)) / 2);
  }
  const long double scale =
      boost::math::tgamma_ratio(d / 2, (d - 1) / 2) / std::sqrt(std::numbers::pi_v<long double>);
  auto first_beyond = [&](long double t) {
    return scale / (d - 1) * std::pow(1 - t * t, (d - 1) / 2);
  };
  auto mass_beyond = [&](long double t) {
    return boost::math::ibetac(0.5L, (d - 1) / 2, t * t) / 2;
  };
  return (first_beyond(lo) - first_beyond(hi)) / (mass_beyond(lo) - mass_beyond(hi));
}

}  // namespace

TEST_CASE("densities have names") {
  CHECK(name_of(Density::kGaussian) == "gaussian");
  CHECK(parse_density("beta") == Density::kBeta);
  CHECK(!parse_density("Beta"));
  CHECK(!parse_density(""));
}

TEST_CASE("a density integrates to one, with variance 1/dim") {
  for (int dim : {8, 9, 64, 1024}) {
    for (Density density : {Density::kGaussian, Density::kBeta}) {
      CAPTURE(dim);
      const UnitDensity<double> f(density, dim);
      const CellMoments<double> all = f.integrate(0, f.end(), 0);
      CHECK(std::abs(2 * all.mass - 1) < 1e-14);
      CHECK(std::abs(2 * all.second * dim - 1) < 1e-14);
      const double step = 1e-6 * f.sigma();
      const CellMoments<double> narrow = f.integrate(f.sigma(), f.sigma() + step, f.sigma());
      CHECK(std::abs(narrow.mass / (step * f.at(f.sigma() + step / 2)) - 1) < 1e-9);
      CHECK(std::abs(narrow.first / (narrow.mass * step / 2) - 1) < 1e-5);
    }
  }
}

TEST_CASE("golden values of the Gaussian") {
  const double distortion[] = {.363380, .117482, .034548, .009501, .002505, .000644, .000163};
  for (int bits = 1; bits <= 7; ++bits) {
    CHECK(std::abs(solve_codebook(Density::kGaussian, 1, bits).distortion - distortion[bits - 1]) <
          5.1e-7);
  }
  CHECK(std::abs(solve_codebook(Density::kGaussian, 1, 8).distortion - 4.12e-5) < 5e-8);

  check_levels(solve_codebook(Density::kGaussian, 1, 1), {.797884560802865}, 1e-15);
  check_levels(solve_codebook(Density::kGaussian, 1, 2), {.452780, 1.510418}, 5.1e-7);
  check_levels(solve_codebook(Density::kGaussian, 64, 3), {.245094, .756005, 1.343909, 2.151946},
               5.1e-7);
  check_levels(solve_codebook(Density::kGaussian, 1, 4),
               {.128395, .388048, .656759, .942340, 1.256231, 1.618046, 2.069017, 2.732590},
               5.1e-7);

  const double entropy[] = {1.911, 2.825, 3.765, 4.730};
  for (int bits = 2; bits <= 5; ++bits) {
    CHECK(std::abs(solve_codebook(Density::kGaussian, 1, bits).entropy_bits - entropy[bits - 2]) <
          5.1e-4);
  }
}

TEST_CASE("golden values of the Beta") {
  struct Golden {
    int dim;
    int bits;
    double distortion;
  };
  for (const Golden& golden :
       {Golden{128, 1, .360889}, Golden{128, 2, .116000}, Golden{128, 3, .033966},
        Golden{128, 4, .009315}, Golden{64, 1, .358387}, Golden{64, 2, .114526},
        Golden{64, 3, .033391}, Golden{64, 4, .009132}, Golden{576, 3, .034418}}) {
    CAPTURE(golden.dim);
    CAPTURE(golden.bits);
    const SolvedCodebook book = solve_codebook(Density::kBeta, golden.dim, golden.bits);
    CHECK(std::abs(book.distortion - golden.distortion) < 5.1e-7);
  }
  check_levels(solve_codebook(Density::kBeta, 128, 1), {.0706616 * std::sqrt(128)}, 6e-7);
  // Published to five digits, from iterations that stopped up to 7e-5 short of the fixed point.
  check_levels(solve_codebook(Density::kBeta, 128, 3), {.24443, .75334, 1.33662, 2.13149}, 2.5e-5);
  check_levels(solve_codebook(Density::kBeta, 128, 4),
               {.12789, .38642, .65367, .93715, 1.24783, 1.60441, 2.04599, 2.68891}, 8e-5);
}

TEST_CASE("levels are the closed-form means of their cells") {
  for (const Shipped& shipped : {Shipped{Density::kGaussian, 1}, Shipped{Density::kGaussian, 100},
                                 Shipped{Density::kBeta, 8}, Shipped{Density::kBeta, 9},
                                 Shipped{Density::kBeta, 128}, Shipped{Density::kBeta, 1024}}) {
    for (int bits = 1; bits <= 5; ++bits) {
      const SolvedCodebook book = solve_codebook(shipped.density, shipped.dim, bits);
      const UnitDensity<long double> f(shipped.density, shipped.dim);
      for (std::size_t i = book.levels.size() / 2; i < book.levels.size(); ++i) {
        const long double hi = i < book.edges.size() ? book.edges[i] : f.end();
        const long double mean =
            mean_by_closed_form(shipped.density, shipped.dim, book.edges[i - 1], hi);
        CHECK(static_cast<double>(std::abs(book.levels[i] - mean) / f.sigma()) < 1e-13);
      }
    }
  }
}

TEST_CASE("every frozen table is what the solver gives, bit for bit") {
  for (const Shipped& shipped : list_shipped()) {
    double previous = 1;
    for (int bits = 1; bits <= 8; ++bits) {
      CAPTURE(shipped.dim);
      CAPTURE(bits);
      const SolvedCodebook book = solve_codebook(shipped.density, shipped.dim, bits);
      check_structure(book);
      CHECK(book.distortion < previous / 2);
      previous = book.distortion;

      const NamedCodebook frozen = find_codebook(shipped.density, shipped.dim, bits);
      CHECK(frozen.frozen);
      CHECK(frozen.table.bits == bits);
      CHECK(std::abs(frozen.distortion / book.distortion - 1) < 5.1e-9);
      CHECK(std::abs(frozen.entropy_bits / book.entropy_bits - 1) < 5.1e-9);
      const std::vector<float> levels = round_levels(book);
      int different = 0;
      for (std::size_t i = 0; i < levels.size(); ++i) {
        different += std::bit_cast<std::uint32_t>(levels[i]) !=
                     std::bit_cast<std::uint32_t>(frozen.table.levels[i]);
      }
      CHECK(different == 0);
      CHECK(frozen.table.edges[levels.size() / 2 - 1] == 0.0f);
    }
  }
}

TEST_CASE("dims that are not shipped are solved") {
  double previous = 0;
  for (int dim : {8, 9, 100, 1000, 1024}) {
    CAPTURE(dim);
    for (int bits = 1; bits <= 8; ++bits) {
      check_structure(solve_codebook(Density::kBeta, dim, bits));
    }
    const NamedCodebook beta = find_codebook(Density::kBeta, dim, 4);
    CHECK(!beta.frozen);
    CHECK(beta.distortion > previous);
    previous = beta.distortion;
  }
  CHECK(previous < find_codebook(Density::kGaussian, 1, 4).distortion);
}

TEST_CASE("a Gaussian table is the frozen one, divided in double and rounded once") {
  const Codebook normal = find_codebook(Density::kGaussian, 1, 4).table;
  for (int dim : {8, 64, 100, 128, 1024}) {
    const NamedCodebook scaled = find_codebook(Density::kGaussian, dim, 4);
    CHECK(scaled.frozen);
    CHECK(scaled.distortion == find_codebook(Density::kGaussian, 1, 4).distortion);
    for (int i = 0; i < 16; ++i) {
      const double level = static_cast<double>(normal.levels[i]) / std::sqrt(double(dim));
      CHECK(scaled.table.levels[i] == static_cast<float>(level));
      CHECK(scaled.table.levels[i] == -scaled.table.levels[15 - i]);
    }
    const SolvedCodebook solved = solve_codebook(Density::kGaussian, dim, 4);
    CHECK(std::abs(scaled.table.levels[15] / solved.levels[15] - 1) < 1.3e-7);
  }
}

TEST_CASE("table_distortion agrees with the solver and judges worse tables") {
  for (Density density : {Density::kGaussian, Density::kBeta}) {
    for (int dim : {8, 128, 576}) {
      for (int bits : {1, 3, 4, 8}) {
        CAPTURE(dim);
        CAPTURE(bits);
        const SolvedCodebook book = solve_codebook(density, dim, bits);
        const Codebook best = make_codebook(round_levels(book));
        CHECK(std::abs(table_distortion(best, density, dim) / book.distortion - 1) < 1e-9);
        const Codebook shrunk = make_codebook(round_levels(book, 0.61));
        const double ratio = table_distortion(shrunk, density, dim) / book.distortion;
        CHECK(ratio > (bits == 1 ? 1.2 : 1.5));
        CHECK(ratio < 1000);
      }
    }
  }
}

TEST_CASE("table_distortion of tables that are not symmetric") {
  for (int dim : {8, 128}) {
    for (Density density : {Density::kGaussian, Density::kBeta}) {
      const float far = 100;
      const float zero[] = {0, far};
      CHECK(std::abs(table_distortion(make_codebook(zero), density, dim) - 1) < 1e-13);
      const float low[] = {-0.5f, far};
      CHECK(std::abs(table_distortion(make_codebook(low), density, dim) - (1 + dim / 4.0)) < 1e-11);
      const float high[] = {-far, 0.25f};
      CHECK(std::abs(table_distortion(make_codebook(high), density, dim) - (1 + dim / 16.0)) <
            1e-11);
    }
  }
  // E t^2 over t < 0.1 and (t - 0.2)^2 beyond, where 0.2 and 0 are the levels: moments of N(0,
  // 1/100) by hand.
  const float levels[] = {0.0f, 0.2f};
  const double edge = static_cast<double>(0.5f * 0.2f) * 10;
  const double density_at_edge = std::exp(-edge * edge / 2) / std::sqrt(2 * std::numbers::pi);
  const double level = static_cast<double>(0.2f) * 10;
  const double expected =
      1 - 2 * level * density_at_edge + level * level * std::erfc(edge / std::numbers::sqrt2) / 2;
  CHECK(std::abs(table_distortion(make_codebook(levels), Density::kGaussian, 100) - expected) <
        1e-13);
}

TEST_CASE("table_distortion of published tables") {
  // The 3- and 4-bit tables of turboquant-plus-vllm at group size 128, whose 4-bit one stops short
  // of the fixed point.
  auto mirror = [](std::vector<float> half) {
    std::vector<float> levels;
    for (auto it = half.rbegin(); it != half.rend(); ++it) levels.push_back(-*it);
    levels.insert(levels.end(), half.begin(), half.end());
    return make_codebook(levels);
  };
  const Codebook three =
      mirror({.021663449704647064f, .06682200729846954f, .11878585070371628f, .1902068555355072f});
  const Codebook four =
      mirror({.011133652180433273f, .03366998955607414f, .05705346167087555f, .08200152218341827f,
              .10954663157463074f, .14143800735473633f, .18133202195167542f, .24016323685646057f});
  CHECK(std::abs(table_distortion(three, Density::kBeta, 128) - .03398) < 5.1e-6);
  CHECK(std::abs(table_distortion(four, Density::kBeta, 128) - .00932) < 5.1e-6);
  CHECK(table_distortion(four, Density::kBeta, 128) >
        1.0005 * find_codebook(Density::kBeta, 128, 4).distortion);
  CHECK_THROWS_AS(table_distortion(four, Density::kBeta, 7), Error);
}

TEST_CASE("ids name codebooks") {
  for (const char* id : {"beta-d128-b3", "gaussian-d100-b4", "gaussian-d1-b8", "beta-d9-b1"}) {
    const NamedCodebook found = find_codebook(id);
    CHECK(found.id == id);
  }
  CHECK(find_codebook("beta-d128-b3").table.levels[7] ==
        find_codebook(Density::kBeta, 128, 3).table.levels[7]);
  for (const char* id :
       {"", "beta", "beta-d128", "beta-d128-b", "beta-d128-b9", "beta-d128-b0", "beta-d7-b3",
        "beta-d1-b3", "beta-d0128-b3", "beta-d128-b3 ", "beta-d-128-b3", "Beta-d128-b3", "-d128-b3",
        "beta-b3-d128", "beta-d99999999999-b3"}) {
    CAPTURE(id);
    CHECK_THROWS_AS(find_codebook(id), Error);
    try {
      find_codebook(id);
    } catch (const Error& error) {
      CHECK(std::string(error.what()).find("\"" + std::string(id) + "\"") != std::string::npos);
    }
  }
}

TEST_CASE("make_codebook derives edges and refuses what is no table") {
  const float levels[] = {-3.0f, -1.0f, 0.5f, 7.0f};
  const Codebook table = make_codebook(levels);
  CHECK(table.bits == 2);
  CHECK(table.edges[0] == -2.0f);
  CHECK(table.edges[1] == -0.25f);
  CHECK(table.edges[2] == 3.75f);
  CHECK(table.edges[3] == 0.0f);
  CHECK(table.levels[4] == 0.0f);

  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kMax = std::numeric_limits<float>::max();
  for (const std::vector<float>& bad : std::vector<std::vector<float>>{{},
                                                                       {1},
                                                                       {1, 2, 3},
                                                                       std::vector<float>(512),
                                                                       {1, 1},
                                                                       {2, 1},
                                                                       {1, kNan},
                                                                       {kNan, 1},
                                                                       {1, kInfinity},
                                                                       {0.75f * kMax, kMax}}) {
    CHECK_THROWS_AS(make_codebook(bad), Error);
  }
}

TEST_CASE("ranges are refused") {
  CHECK_THROWS_AS(solve_codebook(Density::kBeta, 128, 0), UsageError);
  CHECK_THROWS_AS(solve_codebook(Density::kBeta, 128, 9), UsageError);
  CHECK_THROWS_AS(solve_codebook(Density::kBeta, 7, 3), UsageError);
  CHECK_THROWS_AS(solve_codebook(Density::kBeta, 1025, 3), UsageError);
  CHECK_THROWS_AS(solve_codebook(Density::kBeta, 1, 3), UsageError);
  CHECK_THROWS_AS(solve_codebook(Density::kGaussian, 2, 3), UsageError);
  CHECK_THROWS_AS(find_codebook(Density::kGaussian, 1025, 3), UsageError);
  CHECK_THROWS_AS(find_codebook(Density::kGaussian, 64, 9), UsageError);
}

TEST_CASE("bounds") {
  const double bound[] = {.68017, .17004, .04251, .01063};
  for (int bits = 1; bits <= 4; ++bits) {
    CHECK(std::abs(theorem1_bound(bits) - bound[bits - 1]) < 5.1e-6);
    CHECK(shannon_bound(bits) == std::pow(4.0, -bits));
  }
}

TEST_CASE("the text of a frozen table") {
  const SolvedCodebook books[] = {solve_codebook(Density::kGaussian, 1, 1),
                                  solve_codebook(Density::kGaussian, 1, 2)};
  CHECK(format_frozen_table(books) ==
        "// Lloyd-Max codebooks, density gaussian, dim 1, solver version 1.\n"
        "// Generated by `tq codebook --all -o codebooks`; codebooks/README.md explains.\n"
        "//\n"
        "// bits      distortion   entropy, bits\n"
        "//    1  3.63380228e-01  1.00000000e+00\n"
        "//    2  1.17481848e-01  1.91109877e+00\n"
        "\n"
        "{Density::kGaussian, 1, 1, 3.63380228e-01, 1.00000000e+00, {\n"
        "    0x1.988454p-1f,  // 7.97884583e-01\n"
        "}},\n"
        "\n"
        "{Density::kGaussian, 1, 2, 1.17481848e-01, 1.91109877e+00, {\n"
        "    0x1.cfa592p-2f,  // 4.52780038e-01\n"
        "    0x1.82aabap+0f,  // 1.51041758e+00\n"
        "}},\n");
}
