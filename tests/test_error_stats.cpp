// Error statistics of rows against values worked out by hand. Brackets are two-sided: an unexplained improvement fails too.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "lib/measure/error_stats.h"
#include "tests/measure_helpers.h"

namespace {

using namespace tq::test;
using tq::ErrorStats;

ErrorStats measure_rows(const Floats& x, const Floats& x_hat, int dim) {
  ErrorStats stats;
  stats.add_rows(x.data(), x_hat.data(), static_cast<std::int64_t>(x.size()) / dim, dim);
  return stats;
}

// Two rows by hand: (3,4) -> (3,0): error 16, cosine 9/15 = .6, norms 5 and 3; (0,2) -> (0,2):
// exact.
const Floats kHandX = {3, 4, 0, 2};
const Floats kHandXHat = {3, 0, 0, 2};

void check_same_results(const ErrorStats& a, const ErrorStats& b) {
  CHECK(a.rows() == b.rows());
  CHECK(a.values() == b.values());
  CHECK(a.cosine_p1() == b.cosine_p1());
  CHECK(a.cosine_min() == b.cosine_min());
  CHECK(a.worst_row() == b.worst_row());
  CHECK(is_near(a.relative_mse(), b.relative_mse(), 1e-14));
  CHECK(is_near(a.cosine_flattened(), b.cosine_flattened(), 1e-14));
  CHECK(is_near(a.cosine_mean(), b.cosine_mean(), 1e-14));
  CHECK(is_near(a.norm_bias(), b.norm_bias(), 1e-14));
}

}  // namespace

TEST_SUITE("measure/error_stats") {
  TEST_CASE("two rows by hand") {
    const ErrorStats stats = measure_rows(kHandX, kHandXHat, 2);
    CHECK(stats.rows() == 2);
    CHECK(stats.values() == 4);
    CHECK(stats.x_energy() == 29);
    CHECK(stats.x_hat_energy() == 13);
    CHECK(stats.error_energy() == 16);
    CHECK(is_near(stats.relative_mse(), 16.0 / 29, 1e-15));
    CHECK(is_near(stats.cosine_flattened(), 13 / std::sqrt(29.0 * 13), 1e-15));
    CHECK(is_near(stats.cosine_mean(), 0.8, 1e-15));
    CHECK(is_near(stats.cosine_min(), 0.6, 1e-7));
    CHECK(stats.cosine_p1() == stats.cosine_min());
    CHECK(stats.worst_row() == 0);
    CHECK(is_near(stats.norm_bias(), (0.6 + 1) / 2 - 1, 1e-15));
    CHECK(is_near(stats.bits_lost_to_shannon(3), 0.5 * std::log2(16.0 / 29 * 64), 1e-14));
  }

  TEST_CASE("a quantizer at Shannon's bound loses no bits; a fourfold error loses one") {
    const ErrorStats at_bound = measure_rows({1, 0}, {1, 0.25f}, 2);  // relative_mse = 4^-2
    CHECK(is_near(at_bound.bits_lost_to_shannon(2), 0, 1e-15));
    const ErrorStats fourfold = measure_rows({1, 0}, {1, 0.5f}, 2);
    CHECK(is_near(fourfold.bits_lost_to_shannon(2), 1, 1e-15));
    CHECK(is_near(fourfold.bits_lost_to_shannon(2.5), 1.5, 1e-15));
  }

  TEST_CASE("an exact copy is exact") {
    const Floats x = draw_normal(64 * 16, 7);
    const ErrorStats stats = measure_rows(x, x, 16);
    CHECK(stats.relative_mse() == 0);
    CHECK(stats.cosine_flattened() == 1);
    CHECK(stats.cosine_min() == 1);
    CHECK(stats.norm_bias() == 0);
    CHECK(stats.bits_lost_to_shannon(4) == -kInfinity);
  }

  TEST_CASE("control: zeros in place of x score cosine 0 and relative_mse 1") {
    const Floats x = draw_normal(32 * 8, 8);
    const ErrorStats stats = measure_rows(x, Floats(x.size(), 0), 8);
    CHECK(stats.relative_mse() == 1);
    CHECK(stats.cosine_flattened() == 0);
    CHECK(stats.cosine_mean() == 0);
    CHECK(stats.cosine_p1() == 0);
    CHECK(stats.norm_bias() == -1);
  }

  TEST_CASE("control: permuted rows lose the direction and keep the norms' sum") {
    const Floats x = draw_normal(256 * 64, 9);
    Floats shifted(x);
    std::rotate(shifted.begin(), shifted.begin() + 64, shifted.end());
    const ErrorStats stats = measure_rows(x, shifted, 64);
    // Independent rows: cosine has mean 0 and standard deviation 1/sqrt(64); over 256 rows the
    // mean's is 1/128.
    CHECK(std::abs(stats.cosine_mean()) < 5.0 / 128);
    CHECK(is_near(stats.relative_mse(), 2, 0.1));
    CHECK(is_near(stats.norm_bias(), 0, 0.03));
    CHECK(is_near(stats.x_hat_energy(), stats.x_energy(), 1e-9));
  }

  TEST_CASE(
      "zero rows: reproduced they are right, filled they are wrong, and no result is infinite") {
    const ErrorStats reproduced = measure_rows({0, 0, 1, 0}, {0, 0, 1, 0}, 2);
    CHECK(reproduced.cosine_mean() == 1);
    CHECK(reproduced.relative_mse() == 0);
    CHECK(reproduced.norm_bias() == 0);  // from the one row that has a norm

    const ErrorStats all_zero = measure_rows({0, 0}, {0, 0}, 2);
    CHECK(all_zero.relative_mse() == 0);
    CHECK(all_zero.cosine_flattened() == 1);
    CHECK(std::isnan(all_zero.norm_bias()));

    const ErrorStats filled = measure_rows({0, 0}, {0, 3}, 2);
    CHECK(filled.relative_mse() == 1);
    CHECK(filled.cosine_mean() == 0);
    CHECK(filled.cosine_flattened() == 0);
  }

  TEST_CASE("a scaled reconstruction: the cosine cannot see it, the norm bias and the error do") {
    const Floats x = draw_normal(100 * 32, 10);
    Floats shrunk(x);
    for (float& value : shrunk) value *= 0.75f;
    const ErrorStats stats = measure_rows(x, shrunk, 32);
    CHECK(is_near(stats.cosine_min(), 1, 1e-7));
    CHECK(is_near(stats.norm_bias(), -0.25, 1e-7));
    CHECK(is_near(stats.relative_mse(), 0.0625, 1e-7));
    CHECK(is_near(measure_rows({1, 2}, {-1, -2}, 2).cosine_mean(), -1, 1e-15));
  }

  TEST_CASE("the 1st percentile is the nearest rank") {
    // Row i of 200 has cosine (i + 1) / 200: rank ceil(0.01 x 200) = 2, of 201 rows it is 3.
    ErrorStats stats;
    for (int i = 199; i >= 0; --i) {
      const double cosine = (i + 1) / 200.0;
      const Floats x = {1, 0};
      const Floats x_hat = {static_cast<float>(cosine),
                            static_cast<float>(std::sqrt(1 - cosine * cosine))};
      stats.add_row(x, x_hat);
    }
    CHECK(is_near(stats.cosine_p1(), 2 / 200.0, 1e-6));
    CHECK(is_near(stats.cosine_min(), 1 / 200.0, 1e-6));
    CHECK(stats.worst_row() == 199);
    stats.add_row(Floats{1, 0}, Floats{1, 0});
    CHECK(is_near(stats.cosine_p1(), 3 / 200.0, 1e-6));

    const Floats values = {40, 10, 30, 20};
    CHECK(tq::nearest_rank_percentile(values, 0) == 10);
    CHECK(tq::nearest_rank_percentile(values, 25) == 10);
    CHECK(tq::nearest_rank_percentile(values, 26) == 20);
    CHECK(tq::nearest_rank_percentile(values, 99) == 40);
    CHECK(tq::nearest_rank_percentile(values, 100) == 40);
    CHECK(std::isnan(tq::nearest_rank_percentile({}, 50)));
    Floats hundred(100);
    for (std::size_t i = 0; i < 100; ++i) hundred[i] = static_cast<float>(100 - i);
    CHECK(tq::nearest_rank_percentile(hundred, 99) == 99);
  }

  TEST_CASE("merge equals one pass, in any grouping") {
    const Floats x = draw_normal(90 * 16, 11);
    const Floats x_hat = add(x, draw_normal(x.size(), 12, 0.3f));
    const ErrorStats whole = measure_rows(x, x_hat, 16);
    ErrorStats parts[3];
    for (std::size_t part = 0; part < 3; ++part) {
      parts[part].add_rows(x.data() + part * 480, x_hat.data() + part * 480, 30, 16);
    }
    ErrorStats left = parts[0];
    left.merge(parts[1]);
    left.merge(parts[2]);
    ErrorStats tail = parts[1];
    tail.merge(parts[2]);
    ErrorStats right = parts[0];
    right.merge(tail);
    right.merge(ErrorStats{});
    check_same_results(left, whole);
    check_same_results(right, whole);
    CHECK(whole.worst_row() >= 0);

    ErrorStats twice = whole;
    twice.merge(twice);
    CHECK(twice.rows() == 180);
    CHECK(twice.worst_row() == whole.worst_row());
    CHECK(is_near(twice.relative_mse(), whole.relative_mse(), 1e-14));
  }

  TEST_CASE("extreme magnitudes neither overflow nor vanish") {
    const float big = std::numeric_limits<float>::max();
    const float tiny = std::numeric_limits<float>::denorm_min();
    const ErrorStats large = measure_rows({big, big}, {big, -big}, 2);
    CHECK(is_near(large.relative_mse(), 2, 1e-15));
    CHECK(large.cosine_mean() == 0);
    const ErrorStats small = measure_rows({tiny, 0}, {2 * tiny, 0}, 2);
    CHECK(small.cosine_mean() == 1);
    CHECK(is_near(small.norm_bias(), 1, 1e-15));
  }

  TEST_CASE("nothing measured is NaN, and bad rows are refused by number and not counted") {
    const ErrorStats empty;
    CHECK(std::isnan(empty.relative_mse()));
    CHECK(std::isnan(empty.cosine_mean()));
    CHECK(std::isnan(empty.cosine_flattened()));
    CHECK(std::isnan(empty.cosine_p1()));
    CHECK(std::isnan(empty.cosine_min()));
    CHECK(std::isnan(empty.bits_lost_to_shannon(3)));
    CHECK(empty.worst_row() == -1);

    ErrorStats stats = measure_rows({1, 2}, {1, 2}, 1);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    CHECK(contains(error_of([&] { stats.add_row(Floats{1, nan}, Floats{1, 2}); }), "row 2"));
    CHECK(contains(error_of([&] {
                     stats.add_row(Floats{1, 2}, Floats{1, HUGE_VALF});
                   }),
                   "reconstruction"));
    CHECK(contains(error_of([&] { stats.add_row(Floats{1, 2}, Floats{1}); }), "2 values"));
    CHECK_FALSE(error_of([&] { stats.add_row(Floats{}, Floats{}); }).empty());
    CHECK_FALSE(error_of([&] { stats.add_rows(nullptr, nullptr, -1, 4); }).empty());
    CHECK_FALSE(error_of([&] { stats.add_rows(nullptr, nullptr, 1, 0); }).empty());
    CHECK(stats.rows() == 2);
    CHECK(stats.values() == 2);
    CHECK(stats.cosine_mean() == 1);
  }
}
