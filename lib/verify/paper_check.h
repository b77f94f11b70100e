// What a validation of the paper says: each check is one number with its standard error, what the theory makes of it, and
// the same number of a broken codec, which has to fail.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "lib/verify/report.h"

namespace tq {

/// A mean, or a slope, over samples that come in independent clusters (blocks with a rotation and a sketch of their own).
struct Estimate {
  double value = std::numeric_limits<double>::quiet_NaN();
  double standard_error =
      std::numeric_limits<double>::quiet_NaN();  ///< from the spread between the clusters
  std::int64_t samples = 0;
};

/// Half the width of an interval, in standard errors. A check whose codec is right fails by chance once in 16,000 times.
inline constexpr double kIntervalErrors = 4;

/// The limits that the interval value +- 4 standard errors is held to. Where theory has an exact value, that value lies within
/// the other limits, and the interval may reach beyond them as long as it contains the exact value and is narrow.
struct PaperLimits {
  double exact = std::numeric_limits<
      double>::quiet_NaN();  ///< the interval contains it; NaN: theory has no exact value
  double lower = -std::numeric_limits<double>::infinity();  ///< the interval lies above it ...
  double upper = std::numeric_limits<double>::infinity();   ///< ... and below this
  double most_error = std::numeric_limits<
      double>::infinity();  ///< the interval's half width is at most this, or it shows nothing
};

enum class PaperVerdict {
  kHolds,
  kViolated,   ///< the interval is outside of a limit
  kImprecise,  ///< it is wider than most_error, or reaches over a limit: more rows are needed
};

PaperVerdict judge_estimate(const Estimate& estimate, const PaperLimits& limits);

struct PaperCheck {
  std::string name;   ///< "theorem-1", "theorem-1-any-row", "theorem-2-slope", ...
  std::string claim;  ///< one line, with the paper's formula
  int dim = 0;
  int bits = 0;
  std::uint32_t seed = 0;
  Estimate measured;
  PaperLimits limits;
  PaperVerdict verdict = PaperVerdict::kImprecise;
  std::string control;  ///< what was broken
  Estimate control_measured;
  bool control_noticed = false;  ///< the broken codec violates the same limits
};

struct PaperReport {
  std::vector<int> dims, bits;
  std::uint32_t seed = 0;
  std::int64_t rows = 0;
  std::string backend;
  std::vector<PaperCheck> checks;
  /// kFail: a check is violated. Else kNotMeasured: a check is too imprecise, or a control was not noticed. Else kPass.
  Verdict verdict = Verdict::kNotMeasured;
};

Verdict overall_verdict(const std::vector<PaperCheck>& checks);

/// The report as a JSON object.
std::string format_paper_json(const PaperReport& report, int exit_code);

}  // namespace tq
