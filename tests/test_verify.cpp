// verify: gates, controls and verdicts, on rows whose answer is known.
#include <doctest/doctest.h>

#include <cmath>

#include "lib/tq.h"

namespace tq {
namespace {

VerifyOptions small_options(int k_bits, int v_bits) {
  VerifyOptions options;
  options.scheme.k_bits = k_bits;
  options.scheme.v_bits = v_bits;
  options.measure.threads = 2;
  return options;
}

VerifyReport run_synthetic(const VerifyOptions& options, SyntheticShape shape = {.layers = 1, .kv_heads = 2, .tokens = 512}) {
  return verify_synthetic(shape, options, *make_cpu_backend());
}

TEST_CASE("Gaussian rows: cosine and MSE are those of the codebook, for K and V apart") {
  const VerifyReport report = run_synthetic(small_options(4, 3));
  const Measurement& m = report.layers.front().all;
  CHECK(m.k.mse_ratio == doctest::Approx(1.0).epsilon(0.02));
  CHECK(m.v.mse_ratio == doctest::Approx(1.0).epsilon(0.02));
  CHECK(m.k.cosine_flattened == doctest::Approx(std::sqrt(1 - m.k.distortion)).epsilon(1e-3));
  CHECK(m.v.cosine_flattened == doctest::Approx(std::sqrt(1 - m.v.distortion)).epsilon(1e-3));
  CHECK(m.k.bits == 4);
  CHECK(m.v.bits == 3);
  CHECK(m.k.other_seeds_min < m.k.other_seeds_max);
  CHECK(m.k.other_seeds_mean == doctest::Approx(1.0).epsilon(0.02));
  CHECK(m.k.bits_lost == doctest::Approx(0.5 * std::log2(m.k.relative_mse * 256)).epsilon(1e-12));
  CHECK(m.k.bound_ratio < 1.0);
  CHECK(report.verdict == Verdict::kPass);
}

TEST_CASE("every control fails its gate, and has the value that theory gives it") {
  const VerifyReport report = run_synthetic(small_options(4, 4));
  const PartNumbers& k = report.layers.front().all.k;
  const auto control = [&](Control c) { return *k.controls[static_cast<std::size_t>(c)]; };
  CHECK(control(Control::kZeros).cosine_flattened == 0.0);
  CHECK(control(Control::kZeros).relative_mse == 1.0);
  CHECK(std::abs(control(Control::kOtherSeed).cosine_flattened) < 0.05);
  CHECK(control(Control::kOtherSeed).relative_mse == doctest::Approx(2.0).epsilon(0.05));
  CHECK(std::abs(control(Control::kPermuted).cosine_flattened) < 0.05);
  CHECK(control(Control::kOneBit).cosine_flattened == doctest::Approx(std::sqrt(1 - .360889)).epsilon(0.01));
  for (const GateReport& gate : report.gates) {
    CHECK(gate.controls.size() == (gate.name == "codebook-bound" ? 0 : 8));
    CHECK(gate.sensitive);
    for (const GateControl& c : gate.controls) CHECK_FALSE(c.passed);
  }
}

TEST_CASE("controls that cannot apply are left out: 1 bit, fewer than 16 tokens") {
  CHECK(run_synthetic(small_options(1, 1)).gates.front().controls.size() == 6);
  CHECK(run_synthetic(small_options(4, 4), {.layers = 1, .kv_heads = 2, .tokens = 15}).gates.front().controls.size() == 6);
}

TEST_CASE("default thresholds: .99 from 4 bits on, else sqrt(1-D) - .005 of the narrower") {
  CHECK(run_synthetic(small_options(4, 8)).threshold == 0.99);
  const double d3 = find_codebook(Density::kBeta, 128, 3).distortion;
  const double d2 = find_codebook(Density::kBeta, 128, 2).distortion;
  CHECK(run_synthetic(small_options(4, 3)).threshold == doctest::Approx(std::sqrt(1 - d3) - .005).epsilon(1e-6));
  CHECK(run_synthetic(small_options(2, 3)).threshold == doctest::Approx(std::sqrt(1 - d2) - .005).epsilon(1e-6));
}

TEST_CASE("verdicts: a failed gate comes before a blind one, equality passes") {
  VerifyOptions options = small_options(4, 4);
  options.gates.threshold = 0.5;  // 1 bit has a cosine of .8: the gate is blind
  CHECK(run_synthetic(options).verdict == Verdict::kNotMeasured);
  options.gates.min_token_cosine = 0.9999;
  CHECK(run_synthetic(options).verdict == Verdict::kFail);

  VerifyOptions exact = small_options(4, 4);
  const VerifyReport first = run_synthetic(exact);
  exact.gates.threshold = first.gates.front().value;
  CHECK(run_synthetic(exact).verdict == Verdict::kPass);
  exact.gates.threshold = std::nextafter(first.gates.front().value, 1.0);
  CHECK(run_synthetic(exact).verdict == Verdict::kFail);
  exact.gates = {};
  exact.gates.max_rel_mse_ratio = 0.5;
  CHECK(run_synthetic(exact).verdict == Verdict::kFail);
}

TEST_CASE("threads change no number") {
  VerifyOptions options = small_options(4, 3);
  const std::string two = format_report_json(run_synthetic(options), 0);
  options.measure.threads = 1;
  CHECK(format_report_json(run_synthetic(options), 0) == two);
}

TEST_CASE("a codebook that is not the scheme's best is seen in the ratio to the best one's D") {
  // Equal-probability cells, as one published system ships them: 3 bits, .049 instead of .034.
  std::vector<float> levels;
  for (const double l : {-1.6468, -.8935, -.4878, -.1574, .1574, .4878, .8935, 1.6468}) levels.push_back(static_cast<float>(l / std::sqrt(128.0)));
  const double d = table_distortion(make_codebook(levels), Density::kBeta, 128);
  CHECK(d > theorem1_bound(3));
  CHECK(d == doctest::Approx(.0492).epsilon(0.02));
}

}  // namespace
}  // namespace tq
