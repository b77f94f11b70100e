// Groups of channels with a minimum and a step, against plain double arithmetic.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "lib/cache/cache_streams.h"
#include "lib/cache/group_quant.h"
#include "lib/convert.h"
#include "tests/codec_helpers.h"

namespace tq {
namespace {

float through_f16(float value) {
  std::uint16_t half = 0;
  convert_from_float(&value, 1, DType::kF16, &half);
  convert_to_float(DType::kF16, &half, 1, &value);
  return value;
}

TEST_CASE(
    "groups: minimum and step in F16, codes the nearest, as plain double arithmetic has them") {
  for (const GroupShape shape :
       {GroupShape{64, 32, 2}, GroupShape{27, 9, 3}, GroupShape{40, 8, 8}, GroupShape{24, 24, 1}}) {
    CAPTURE(shape.bits);
    const std::int64_t tokens = 50;
    std::vector<float> x = test::gaussian_rows(11, tokens, shape.dim);
    GroupRows coded;
    REQUIRE(encode_groups(shape, x, coded) == -1);
    std::vector<float> x_hat(x.size());
    decode_groups(shape, coded, x_hat);
    const auto group = static_cast<std::size_t>(shape.group);
    for (std::size_t first = 0; first < x.size();
         first += group) {  // groups divide rows, so they follow each other
      const auto [low, high] =
          std::minmax_element(x.begin() + static_cast<std::ptrdiff_t>(first),
                              x.begin() + static_cast<std::ptrdiff_t>(first + group));
      const double steps = std::exp2(shape.bits) - 1;
      const float minimum = through_f16(*low);
      const float step = through_f16(
          static_cast<float>((static_cast<double>(*high) - static_cast<double>(*low)) / steps));
      for (std::size_t i = first; i < first + group; ++i) {
        const double place =
            (static_cast<double>(x[i]) - static_cast<double>(minimum)) / static_cast<double>(step);
        const double code = std::clamp(std::nearbyint(place), 0.0, steps);
        const double expected = static_cast<double>(minimum) + code * static_cast<double>(step);
        const bool tie = std::abs(std::abs(place - std::floor(place)) - 0.5) < 1e-4;
        const double room = tie ? static_cast<double>(step) * 1.001
                                : 1e-6 * (std::abs(expected) + static_cast<double>(step) * steps);
        REQUIRE(std::abs(static_cast<double>(x_hat[i]) - expected) <= room);
      }
    }
  }
}

TEST_CASE("groups: constant rows and both zeros are exact, and no step is negative") {
  const GroupShape shape{16, 8, 2};
  std::vector<float> x(32, 0.0f);
  for (std::size_t i = 16; i < 32; ++i) x[i] = -2.5f;
  x[7] = x[8] = -0.0f;  // 0 .. -0 in the first group, -0 .. 0 in the second
  GroupRows coded;
  REQUIRE(encode_groups(shape, x, coded) == -1);
  CHECK(coded.steps == std::vector<std::uint16_t>(4, 0));
  std::vector<float> x_hat(x.size(), 9.0f);
  decode_groups(shape, coded, x_hat);
  CHECK(x_hat == x);
  CodedHead head;  // and a reader takes them
  head.tokens = 2;
  head.groups = coded;
  const CacheScheme scheme = group_scheme(2, 16, 8);
  CHECK_NOTHROW(from_streams(scheme, 2, to_streams(scheme, head), "t"));
}

}  // namespace
}  // namespace tq
