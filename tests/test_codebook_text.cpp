// Codebooks as text: three forms read, what is none of them refused, and the forms that are
// written.
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lib/error.h"
#include "lib/solver/codebook_text.h"
#include "tests/io_helpers.h"

using namespace tq;
using namespace tq::test;

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
  refused(R"({"centroids": [-0.1, 0.1], "centroids": [-0.2, 0.2]})", "twice");
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
