#include "lib/verify/paper_search.h"

#include <algorithm>
#include <array>
#include <numeric>

namespace tq {
namespace {

constexpr double kNeedleSigmas = 4;  // a needle's product, in standard deviations of the others'
constexpr double kMostNeedleCosine = 0.9;
constexpr std::int64_t kWide = 8;  // the k of recall 1@k
constexpr std::uint32_t kQueryStreams = 1u << 20;
constexpr int kLeastCodeBits = 24;  // of a row, below which codes repeat among rows
constexpr double kMostShareError = 0.12;
constexpr double kMostCorrelationError = 0.02;

enum Number { kRecall1, kRecall8, kCorrelation, kNeedle, kNumbers };
using Numbers = std::array<double, kNumbers>;

std::vector<double> ranks_of(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (std::size_t i = 0; i < order.size(); ++i) ranks[order[i]] = static_cast<double>(i);
  return ranks;
}

/// Spearman's rank correlation of values without ties.
double correlate(const std::vector<double>& ranks_a, const std::vector<double>& ranks_b) {
  double squares = 0;
  for (std::size_t i = 0; i < ranks_a.size(); ++i)
    squares += (ranks_a[i] - ranks_b[i]) * (ranks_a[i] - ranks_b[i]);
  const auto n = static_cast<double>(ranks_a.size());
  return 1 - 6 * squares / (n * (n * n - 1));
}

/// Rows whose product is larger than that of `row`.
std::int64_t count_above(const std::vector<double>& products, std::size_t row) {
  return std::count_if(products.begin(), products.end(),
                       [&](double value) { return value > products[row]; });
}

/// What the products of a query say beside the exact ones.
void add_query(const std::vector<double>& exact, const std::vector<double>& exact_ranks,
               const std::vector<double>& products, Numbers& sums) {
  const auto best =
      static_cast<std::size_t>(std::max_element(exact.begin(), exact.end()) - exact.begin());
  const std::int64_t above = count_above(products, best);
  sums[kRecall1] += above < 1 ? 1 : 0;
  sums[kRecall8] += above < kWide ? 1 : 0;
  sums[kCorrelation] += correlate(exact_ranks, ranks_of(products));
}

/// Each value at the nearest level, as it stands.
std::vector<float> take_levels(const std::vector<float>& rows, const Codebook& book) {
  std::vector<float> out(rows.size());
  const float* end = book.edges + (1 << book.bits) - 1;
  std::transform(rows.begin(), rows.end(), out.begin(), [&](float x) {
    return book.levels[std::lower_bound(book.edges, end, x) - book.edges];
  });
  return out;
}

/// One set of rows with its queries.
class Haystack {
 public:
  Haystack(int dim, std::uint32_t seed, std::uint32_t cluster)
      : dim_(dim),
        rows_(draw_rows(seed, cluster, kSearchRows, dim)),
        queries_(draw_rows(seed, kQueryStreams + cluster, kSearchQueries, dim)) {
    for (std::vector<float>* rows : {&rows_, &queries_}) normalize(*rows);
  }
  /// Unit rows [2048][dim].
  const std::vector<float>& rows() const { return rows_; }

  /// Adds the numbers of each `hats`, reconstructions of all rows, to the sums in its place.
  void measure(const std::array<const std::vector<float>*, 2>& hats,
               const std::array<Numbers*, 2>& sums) const {
    for (std::int64_t q = 0; q < kSearchQueries; ++q) {
      const float* query = queries_.data() + q * dim_;
      const std::vector<double> exact = products(rows_, query);
      const std::vector<double> ranks = ranks_of(exact);
      const auto place = static_cast<std::size_t>(q * (kSearchRows / kSearchQueries));
      const std::vector<float> asks = needle_query(place, query);
      for (std::size_t i = 0; i < hats.size(); ++i) {
        add_query(exact, ranks, products(*hats[i], query), *sums[i]);
        (*sums[i])[kNeedle] += count_above(products(*hats[i], asks.data()), place) == 0 ? 1 : 0;
      }
    }
  }

 private:
  void normalize(std::vector<float>& rows) const {
    for (std::size_t at = 0; at < rows.size(); at += static_cast<std::size_t>(dim_)) {
      const double norm = std::sqrt(inner_product(&rows[at], &rows[at], dim_));
      for (int i = 0; i < dim_; ++i)
        rows[at + static_cast<std::size_t>(i)] =
            static_cast<float>(rows[at + static_cast<std::size_t>(i)] / norm);
    }
  }

  std::vector<double> products(const std::vector<float>& rows, const float* query) const {
    std::vector<double> out(static_cast<std::size_t>(kSearchRows));
    for (std::int64_t i = 0; i < kSearchRows; ++i)
      out[static_cast<std::size_t>(i)] = inner_product(rows.data() + i * dim_, query, dim_);
    return out;
  }

  /// A unit vector at a cosine of 4/sqrt(d), 0.9 at most, to that row, and beside it in the direction of `other`.
  std::vector<float> needle_query(std::size_t row, const float* other) const {
    const double cosine = std::min(kMostNeedleCosine, kNeedleSigmas / std::sqrt(dim_));
    const float* needle = rows_.data() + row * static_cast<std::size_t>(dim_);
    const double along = inner_product(needle, other, dim_);
    const double rest = std::sqrt(std::max(1e-12, 1 - along * along));
    std::vector<float> out(static_cast<std::size_t>(dim_));
    for (int i = 0; i < dim_; ++i) {
      const double side = (other[i] - along * needle[i]) / rest;
      out[static_cast<std::size_t>(i)] =
          static_cast<float>(cosine * needle[i] + std::sqrt(1 - cosine * cosine) * side);
    }
    return out;
  }

  int dim_;
  std::vector<float> rows_, queries_;
};

/// Mean of what was found; the standard error is that of its difference to what was expected.
Estimate compare(const std::vector<Numbers>& found, const std::vector<Numbers>& expected,
                 Number number, double& prediction) {
  std::vector<ClusterSums> mean, difference, predicted;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto queries = static_cast<double>(kSearchQueries);
    mean.push_back({queries, found[i][number], kSearchQueries});
    difference.push_back({queries, found[i][number] - expected[i][number], kSearchQueries});
    predicted.push_back({queries, expected[i][number], kSearchQueries});
  }
  prediction = estimate_ratio(predicted).value;
  Estimate out = estimate_ratio(mean);
  out.standard_error = estimate_ratio(difference).standard_error;
  return out;
}

}  // namespace

SearchNumbers measure_search(const Backend& backend, const PaperSubject& subject, int dim, int bits,
                             const PaperSettings& settings) {
  const Codebook book = find_codebook(Density::kBeta, dim, bits).table;
  const Codec base = subject.make_codec(default_scheme(bits, dim));
  const auto clusters = static_cast<std::size_t>(settings.rows / kSearchRows);
  std::vector<Numbers> found(clusters), expected(clusters);
  measure_clusters(
      settings.threads, static_cast<std::int64_t>(clusters), [&](std::int64_t cluster) {
        const auto number = static_cast<std::uint32_t>(cluster);
        const Haystack haystack(dim, settings.seed, number);
        const Codec codec = base.with_seed(settings.seed * 7919u + number + 1);
        const std::vector<float> hat = round_trip(backend, subject, codec, haystack.rows());
        const std::vector<float> ideal = take_levels(haystack.rows(), book);
        haystack.measure({&hat, &ideal}, {&found[number], &expected[number]});
        return ClusterSums{};
      });
  SearchNumbers out;
  out.recall_at_1 = compare(found, expected, kRecall1, out.expected_recall_at_1);
  out.recall_at_8 = compare(found, expected, kRecall8, out.expected_recall_at_8);
  out.rank_correlation = compare(found, expected, kCorrelation, out.expected_rank_correlation);
  out.needle = compare(found, expected, kNeedle, out.expected_needle);
  return out;
}

std::vector<PaperCheck> check_search(const Backend& backend, const PaperSubject& subject, int dim,
                                     int bits, const PaperSettings& settings) {
  if (dim * bits < kLeastCodeBits) return {};
  PaperSubject shuffled = subject;
  shuffled.shuffled = true;
  PaperSettings fewer = settings;
  fewer.rows = std::max<std::int64_t>(settings.rows / 8, 8 * kSearchRows);
  const SearchNumbers right = measure_search(backend, subject, dim, bits, settings);
  const SearchNumbers wrong = measure_search(backend, shuffled, dim, bits, fewer);
  std::vector<PaperCheck> checks;
  const auto add = [&](const char* name, const char* claim, const Estimate& measured,
                       double expected, double most_error, const Estimate& control) {
    PaperCheck check;
    check.name = name;
    check.claim = claim;
    check.dim = dim;
    check.bits = bits;
    check.seed = settings.seed;
    check.measured = measured;
    check.limits.exact = expected;
    check.limits.most_error = most_error;
    check.verdict = judge_estimate(measured, check.limits);
    check.control = "shuffled rows";
    check.control_measured = control;
    check.control_noticed = judge_estimate(control, check.limits) == PaperVerdict::kViolated;
    checks.push_back(check);
  };
  add("recall-1@1", "the nearest of 2048 rows stays the nearest, as often as theory says",
      right.recall_at_1, right.expected_recall_at_1, kMostShareError, wrong.recall_at_1);
  add("recall-1@8", "the nearest of 2048 rows is among the nearest 8, as often as theory says",
      right.recall_at_8, right.expected_recall_at_8, kMostShareError, wrong.recall_at_8);
  add("rank-correlation", "Spearman's correlation of inner products is what theory says",
      right.rank_correlation, right.expected_rank_correlation, kMostCorrelationError,
      wrong.rank_correlation);
  add("needle",
      "a query at a cosine of 4/sqrt(d) finds its row among 2048, as often as theory says",
      right.needle, right.expected_needle, kMostShareError, wrong.needle);
  return checks;
}

}  // namespace tq
