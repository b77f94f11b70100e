// Key health against values worked out by hand.
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

#include "lib/measure/key_health.h"
#include "tests/measure_helpers.h"

namespace {

using namespace tq::test;
using tq::KeyHealth;

}  // namespace

TEST_SUITE("measure/key_health") {
  TEST_CASE("three keys by hand") {
    // Channels (1,1,1), (2,-2,0), (0,0,6): sums 3, 0, 6; energies 3, 8, 36; rms 1, 1.633, 3.464.
    KeyHealth health(3);
    health.add_rows(Floats{1, 2, 0, 1, -2, 0, 1, 0, 6});
    CHECK(health.tokens() == 3);
    CHECK(health.sums()[0] == 3);
    CHECK(health.sums()[1] == 0);
    CHECK(health.energies()[2] == 36);
    // T |mean|^2 = 3 (1 + 0 + 4) = 15, of 47.
    CHECK(is_near(health.mean_energy_share(), 15.0 / 47, 1e-15));
    CHECK(is_near(health.channel_rms_ratio(), std::sqrt(36.0 / 8), 1e-15));
    CHECK(health.loudest_channel() == 2);
  }

  TEST_CASE("the median of an even number of channels is the mean of the middle two") {
    KeyHealth health(4);
    health.add_rows(Floats{3, 1, 10, 2});
    CHECK(is_near(health.channel_rms_ratio(), 10 / 2.5, 1e-14));
    CHECK(health.loudest_channel() == 2);
    CHECK(is_near(health.mean_energy_share(), 1, 1e-15));  // a single token is its own mean
  }

  TEST_CASE("zero-mean keys have a share of about 1/T, biased keys near 1") {
    const Floats noise = draw_normal(1000 * 64, 21);
    KeyHealth zero_mean(64);
    zero_mean.add_rows(noise);
    // 1/T times chi-square(64)/64: standard deviation 0.18/T.
    CHECK(is_near(zero_mean.mean_energy_share() * 1000, 1, 0.9));
    CHECK(zero_mean.channel_rms_ratio() > 1);
    CHECK(zero_mean.channel_rms_ratio() < 1.15);
    KeyHealth biased(64);
    Floats shifted(noise);
    for (std::size_t i = 5; i < shifted.size(); i += 64) shifted[i] += 80;
    biased.add_rows(shifted);
    CHECK(is_near(biased.mean_energy_share(), 6400.0 / 6464, 2e-3));
    CHECK(biased.loudest_channel() == 5);
    CHECK(is_near(biased.channel_rms_ratio(), std::sqrt(6401.0), 2.5));
  }

  TEST_CASE("merge equals one pass") {
    const Floats keys = draw_normal(50 * 8, 22);
    KeyHealth whole(8), first(8), second(8);
    whole.add_rows(keys);
    first.add_rows(std::span<const float>(keys).first(20 * 8));
    second.add_rows(std::span<const float>(keys).subspan(20 * 8));
    first.merge(second);
    CHECK(first.tokens() == 50);
    CHECK(first.loudest_channel() == whole.loudest_channel());
    CHECK(is_near(first.mean_energy_share(), whole.mean_energy_share(), 1e-14));
    CHECK(is_near(first.channel_rms_ratio(), whole.channel_rms_ratio(), 1e-14));
    CHECK_FALSE(error_of([&] { first.merge(KeyHealth(9)); }).empty());
  }

  TEST_CASE("silent channels and refusals") {
    KeyHealth health(3);
    CHECK(std::isnan(health.mean_energy_share()));
    CHECK(std::isnan(health.channel_rms_ratio()));
    health.add_rows(Floats{0, 0, 0});
    CHECK(health.mean_energy_share() == 0);
    CHECK(health.channel_rms_ratio() == 1);
    health.add_rows(Floats{0, 2, 0});
    CHECK(health.channel_rms_ratio() == kInfinity);
    CHECK(contains(error_of([&] {
                     health.add_rows(Floats{0, 2, 0, 1, HUGE_VALF, 1});
                   }),
                   "token 3, channel 1"));
    CHECK_FALSE(error_of([&] { health.add_rows(Floats{0, 2}); }).empty());
    CHECK_FALSE(error_of([] { KeyHealth none(0); }).empty());
    CHECK(health.tokens() == 2);
  }
}
