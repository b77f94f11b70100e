#include "lib/verify/validate_paper.h"

#include <algorithm>

#include "lib/error.h"
#include "lib/verify/paper_search.h"
#include "lib/verify/paper_theorems.h"

namespace tq {
namespace {

constexpr std::int64_t kFewestRows = 16384;

void check_range(const std::vector<int>& values, int low, int high, const std::string& what) {
  const bool fine = !values.empty() && std::all_of(values.begin(), values.end(),
                                                   [&](int x) { return x >= low && x <= high; });
  if (!fine) throw UsageError("verify --paper: " + what);
}

void append(std::vector<PaperCheck>& to, std::vector<PaperCheck> more) {
  to.insert(to.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

}  // namespace

PaperReport validate_paper(const PaperOptions& options, const Backend& backend) {
  check_range(options.dims, kMinDim, kMaxRowDim, "dims are 8..1024");
  check_range(options.bits, kMinBits, kMaxBits, "bits are 1..8");
  if (options.settings.rows < kFewestRows) throw UsageError("verify --paper: 16384 rows or more");
  PaperReport report;
  report.dims = options.dims;
  report.bits = options.bits;
  report.seed = options.settings.seed;
  report.rows = options.settings.rows;
  report.backend = backend.name();
  for (const int dim : options.dims) {
    for (const int bits : options.bits) {
      append(report.checks, check_theorems(backend, options.subject, dim, bits, options.settings));
      append(report.checks, check_search(backend, options.subject, dim, bits, options.settings));
      if (options.progress) options.progress(1);
    }
  }
  report.verdict = overall_verdict(report.checks);
  return report;
}

}  // namespace tq
