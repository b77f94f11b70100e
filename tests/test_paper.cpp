// The validation of the paper: it holds of tq's codec, and each kind of check fails of a broken one.
#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include <nlohmann/json.hpp>

#include "lib/error.h"
#include "lib/verify/paper_search.h"
#include "lib/verify/paper_theorems.h"
#include "lib/verify/validate_paper.h"
#include "tests/codec_helpers.h"

namespace tq {
namespace {

constexpr std::int64_t kFewRows = 16384;

PaperOptions small(int dim, std::vector<int> bits, std::int64_t rows, PaperSubject subject = {}) {
  PaperOptions options;
  options.dims = {dim};
  options.bits = std::move(bits);
  options.settings = {3, rows, 2};
  options.subject = subject;
  return options;
}

std::set<std::string> violated(const PaperReport& report) {
  std::set<std::string> names;
  for (const PaperCheck& c : report.checks) {
    if (c.verdict == PaperVerdict::kViolated) names.insert(c.name);
  }
  return names;
}

TEST_CASE("an interval against limits") {
  const PaperLimits exact{.exact = 1, .upper = 1.2, .most_error = 0.1};
  CHECK(judge_estimate({1.01, 0.01, 9}, exact) == PaperVerdict::kHolds);
  CHECK(judge_estimate({1.05, 0.01, 9}, exact) == PaperVerdict::kViolated);
  CHECK(judge_estimate({1.05, 0.03, 9}, exact) == PaperVerdict::kImprecise);
  CHECK(judge_estimate({1.19, 0.024, 9}, PaperLimits{.upper = 1.2}) == PaperVerdict::kImprecise);
  CHECK(judge_estimate({1.3, 0.01, 9}, PaperLimits{.upper = 1.2}) == PaperVerdict::kViolated);
  CHECK(judge_estimate({1.0, 0.01, 9}, PaperLimits{.lower = 0.9, .upper = 1.2}) == PaperVerdict::kHolds);
  CHECK(judge_estimate({0.8, 0.01, 9}, PaperLimits{.lower = 0.9}) == PaperVerdict::kViolated);
  CHECK(judge_estimate({NAN, 0.01, 9}, exact) == PaperVerdict::kViolated);
  CHECK(judge_estimate({1, NAN, 1}, exact) == PaperVerdict::kViolated);
}

TEST_CASE("a ratio over clusters, by hand") {
  const Estimate mean = estimate_ratio({{2, 2, 2}, {2, 6, 2}});  // means 1 and 3
  CHECK(mean.value == 2);
  CHECK(mean.samples == 4);
  CHECK(mean.standard_error == doctest::Approx(1.0));  // sqrt(2/1 (4 + 4)) / 4
  CHECK(std::isnan(estimate_ratio({{2, 2, 2}}).value));
}

TEST_CASE("tq's codec holds, at a power of two, at a dim with a Haar rotation, and at 8 bits") {
  const auto backend = make_cpu_backend();
  const bool full = test::reduced(1, 0) == 1;  // else too few rows for the precision that a check asks for
  const std::int64_t rows = full ? 65536 : kFewRows;
  for (const auto& [dim, bits] : {std::pair(64, std::vector{1, 3}), std::pair(50, std::vector{4}), std::pair(64, std::vector{8})}) {
    const PaperReport report = validate_paper(small(dim, bits, bits[0] == 1 ? rows : std::max(kFewRows, rows / 2)), *backend);
    CHECK(report.checks.size() == 10 * bits.size());
    for (const PaperCheck& c : report.checks) {
      CAPTURE(c.name);
      CAPTURE(c.dim);
      CAPTURE(c.bits);
      CAPTURE(c.measured.value);
      CAPTURE(c.measured.standard_error);
      CAPTURE(c.limits.exact);
      CAPTURE(c.control_measured.value);
      CHECK(c.verdict != PaperVerdict::kViolated);
      if (full && c.bits < 8) CHECK(c.verdict == PaperVerdict::kHolds);
      if (c.bits < 8) CHECK(c.control_noticed);
    }
  }
}

TEST_CASE("the same numbers whatever the threads, others with another seed") {
  const auto backend = make_cpu_backend();
  const auto text = [&](std::uint32_t seed, int threads) {
    PaperOptions options = small(32, {2}, kFewRows);
    options.settings.seed = seed;
    options.settings.threads = threads;
    const PaperReport report = validate_paper(options, *backend);
    return format_paper_json(report, 0);
  };
  CHECK(text(1, 1) == text(1, 3));
  CHECK(text(1, 1) != text(2, 1));
  CHECK(nlohmann::json::parse(text(1, 1))["checks"].size() == 10);
}

TEST_CASE("a broken codec turns the verdict, and the checks that speak of it") {
  const auto backend = make_cpu_backend();
  const auto run = [&](const PaperSubject& subject) {
    const PaperReport report = validate_paper(small(32, {2}, kFewRows, subject), *backend);
    CHECK(report.verdict == Verdict::kFail);
    return violated(report);
  };
  CHECK(run({.level_factor = 0.9}).contains("theorem-1"));
  const auto sketch = run({.sketch_factor = 1.0 / 8});
  CHECK(sketch.contains("theorem-2-slope"));
  CHECK(sketch.contains("theorem-2-variance"));
  CHECK_FALSE(sketch.contains("theorem-1"));
  const auto unrotated = run({.rotation = RotationKind::kIdentity});
  CHECK(unrotated == std::set<std::string>{"theorem-1-any-row"});  // rows without a direction need no rotation
  const auto more = run({.more_bits = 1});
  CHECK(more.contains("theorem-3"));
  CHECK(more.contains("recall-1@1"));
  const auto exact = run({.exact = true});
  CHECK(exact.contains("theorem-3-prod"));
  CHECK(exact.contains("rank-correlation"));
  const auto shuffled = run({.shuffled = true});
  for (const char* name : {"recall-1@1", "recall-1@8", "rank-correlation", "needle", "theorem-1"}) CHECK(shuffled.contains(name));
}

TEST_CASE("precedence: a violation, then a control that was not noticed") {
  PaperCheck fine;
  fine.verdict = PaperVerdict::kHolds;
  fine.control_noticed = true;
  PaperCheck blind = fine;
  blind.control_noticed = false;
  PaperCheck wrong = fine;
  wrong.verdict = PaperVerdict::kViolated;
  CHECK(overall_verdict({fine}) == Verdict::kPass);
  CHECK(overall_verdict({fine, blind}) == Verdict::kNotMeasured);
  CHECK(overall_verdict({blind, wrong}) == Verdict::kFail);
  CHECK(overall_verdict({}) == Verdict::kNotMeasured);
}

TEST_CASE("options out of range") {
  const auto backend = make_cpu_backend();
  CHECK_THROWS_AS(validate_paper(small(4, {2}, kFewRows), *backend), UsageError);
  CHECK_THROWS_AS(validate_paper(small(64, {9}, kFewRows), *backend), UsageError);
  CHECK_THROWS_AS(validate_paper(small(64, {}, kFewRows), *backend), UsageError);
  CHECK_THROWS_AS(validate_paper(small(64, {2}, kFewRows - 1), *backend), UsageError);
}

}  // namespace
}  // namespace tq
