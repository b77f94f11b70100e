// Attention twice, with the exact and with the reconstructed cache, in blocks of 64 queries over
// the keys that the block can see. A fast-tier source: Eigen may order its float sums as it likes,
// but orders them alike for both caches.
#include "lib/measure/attention_stats.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>

#include "lib/error.h"

namespace tq {
namespace {

constexpr double kNothingMeasured = std::numeric_limits<double>::quiet_NaN();
constexpr std::int64_t kBlockQueries = 64;

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

[[noreturn]] void refuse(const std::string& reason) {
  throw Error("attention statistics: " + reason);
}

void check_span(const char* name, std::span<const float> values, std::int64_t rows,
                std::int64_t dim) {
  const auto width = static_cast<std::size_t>(dim);
  if (values.size() % width != 0 || values.size() / width != static_cast<std::size_t>(rows)) {
    refuse(std::string(name) + " holds " + std::to_string(values.size()) +
           " values: its shape needs " + std::to_string(rows) + " rows of " + std::to_string(dim));
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i])) continue;
    refuse(std::string(name) + " row " + std::to_string(i / width) + " index " +
           std::to_string(i % width) + " is NaN or infinite: mend the input");
  }
}

/// A copy, so that exact and reconstructed matrices are aligned alike and Eigen sums both in one
/// order.
Matrix copy_matrix(std::span<const float> values, std::int64_t rows, std::int64_t dim) {
  return Eigen::Map<const Matrix>(values.data(), rows, dim);
}

/// Keys first..end-1 that some query sees.
struct KeyRange {
  std::int64_t first = 0;
  std::int64_t end = 0;
  std::int64_t count() const { return end - first; }
};

KeyRange visible_keys(const AttentionInputs& in, std::int64_t position) {
  const std::int64_t first = in.window ? std::max<std::int64_t>(0, position - *in.window + 1) : 0;
  return {first, position + 1};
}

void finish_logits(const AttentionInputs& in, const float* products, std::span<double> logits) {
  for (std::size_t i = 0; i < logits.size(); ++i)
    logits[i] = in.scale * static_cast<double>(products[i]);
  if (!in.softcap) return;
  for (double& logit : logits) logit = *in.softcap * std::tanh(logit / *in.softcap);
}

/// The caches, and the buffers of one block, reused from block to block.
class Attention {
 public:
  explicit Attention(const AttentionInputs& in)
      : in_(in),
        k_(copy_matrix(in.k, in.tokens, in.d_k)),
        k_hat_(copy_matrix(in.k_hat, in.tokens, in.d_k)),
        v_(copy_matrix(in.v, in.tokens, in.d_v)),
        v_hat_(copy_matrix(in.v_hat, in.tokens, in.d_v)),
        logits_(static_cast<std::size_t>(in.tokens) + 1),
        logits_hat_(static_cast<std::size_t>(in.tokens) + 1) {}

  void measure_block(std::int64_t head, std::int64_t first_query, std::int64_t queries,
                     AttentionStats& stats) {
    const std::int64_t position = in_.tokens - in_.q_tokens + first_query;
    const KeyRange keys{visible_keys(in_, position).first, position + queries};
    const Eigen::Map<const Matrix> q(in_.q.data() + (head * in_.q_tokens + first_query) * in_.d_k,
                                     queries, in_.d_k);
    products_.noalias() = q * k_.middleRows(keys.first, keys.count()).transpose();
    products_hat_.noalias() = q * k_hat_.middleRows(keys.first, keys.count()).transpose();
    p_.setZero(queries, keys.count() + 1);  // one column more, for a sink
    p_hat_.setZero(queries, keys.count() + 1);
    for (std::int64_t i = 0; i < queries; ++i)
      measure_query(head, i, position + i, keys.first, stats);
    o_.noalias() = p_.leftCols(keys.count()) * v_.middleRows(keys.first, keys.count());
    if (in_.recent > 0) {  // the weights of the newest tokens move to the exact values
      p_new_.setZero(queries, keys.count());
      for (std::int64_t i = 0; i < queries; ++i) {
        const std::int64_t newest = std::min(in_.recent, position + i - keys.first + 1);
        const std::int64_t first = position + i + 1 - newest - keys.first;
        p_new_.row(i).segment(first, newest) = p_hat_.row(i).segment(first, newest);
        p_hat_.row(i).segment(first, newest).setZero();
      }
    }
    o_hat_.noalias() = p_hat_.leftCols(keys.count()) * v_hat_.middleRows(keys.first, keys.count());
    if (in_.recent > 0) o_hat_.noalias() += p_new_ * v_.middleRows(keys.first, keys.count());
    const auto width = static_cast<std::size_t>(in_.d_v);
    for (std::int64_t i = 0; i < queries; ++i) {
      stats.add_output({o_.row(i).data(), width}, {o_hat_.row(i).data(), width});
    }
  }

 private:
  void measure_query(std::int64_t head, std::int64_t row, std::int64_t position,
                     std::int64_t first_key, AttentionStats& stats) {
    const KeyRange seen = visible_keys(in_, position);
    const std::int64_t column = seen.first - first_key;
    const auto count = static_cast<std::size_t>(seen.count());
    const std::span<double> logits(logits_.data(), count);
    const std::span<double> logits_hat(logits_hat_.data(), count);
    finish_logits(in_, products_.row(row).data() + column, logits);
    finish_logits(in_, products_hat_.row(row).data() + column, logits_hat);
    const auto newest = static_cast<std::ptrdiff_t>(std::min(in_.recent, seen.count()));
    std::copy(logits.end() - newest, logits.end(), logits_hat.end() - newest);
    const auto is_finite = [](double x) { return std::isfinite(x); };
    if (!std::all_of(logits.begin(), logits.end(), is_finite) ||
        !std::all_of(logits_hat.begin(), logits_hat.end(), is_finite)) {
      refuse_attention_logit(head, position);
    }
    float* p = p_.row(row).data() + column;
    float* p_hat = p_hat_.row(row).data() + column;
    if (in_.sinks.empty()) {
      stats.add_logits(compare_logits(logits, logits_hat, {p, count}, {p_hat, count}));
      return;
    }
    logits_[count] = logits_hat_[count] = static_cast<double>(in_.sinks[static_cast<std::size_t>(head)]);
    LogitComparison query = compare_logits({logits_.data(), count + 1}, {logits_hat_.data(), count + 1},
                                           {p, count + 1}, {p_hat, count + 1});
    --query.pairs;  // the sink is no key
    p[count] = p_hat[count] = 0.0f;
    stats.add_logits(query);
  }

  const AttentionInputs& in_;
  Matrix k_, k_hat_, v_, v_hat_;
  Matrix products_, products_hat_, p_, p_hat_, p_new_, o_, o_hat_;
  std::vector<double> logits_, logits_hat_;
};

/// A softmax weight as float; below 1e-30 it is 0, for denormals would slow the product and change
/// no output.
float as_weight(double weight) { return weight < 1e-30 ? 0.0f : static_cast<float>(weight); }

}  // namespace

void check_attention_inputs(const AttentionInputs& in) {
  if (in.query_heads < 1 || in.tokens < 1 || in.d_k < 1 || in.d_v < 1) {
    refuse("query_heads, tokens, d_k and d_v must be at least 1");
  }
  if (in.q_tokens < 1 || in.q_tokens > in.tokens) {
    refuse("q_tokens is " + std::to_string(in.q_tokens) + ": give 1.." + std::to_string(in.tokens));
  }
  if (!std::isfinite(in.scale)) refuse("the scale is not finite");
  if (in.softcap && !(*in.softcap > 0 && std::isfinite(*in.softcap))) {
    refuse("the soft cap is " + std::to_string(*in.softcap) + ": give a finite value above 0");
  }
  if (in.window && *in.window < 1) {
    refuse("the window is " + std::to_string(*in.window) + ": give at least 1");
  }
  if (in.recent < 0) refuse("recent is " + std::to_string(in.recent) + ": give 0 or more");
  if (in.query_heads > std::numeric_limits<std::int64_t>::max() / in.q_tokens) {
    refuse("query_heads x q_tokens is beyond 64 bits");
  }
  if (!in.sinks.empty()) check_span("sinks", in.sinks, in.query_heads, 1);
  check_span("q", in.q, in.query_heads * in.q_tokens, in.d_k);
  check_span("k", in.k, in.tokens, in.d_k);
  check_span("k_hat", in.k_hat, in.tokens, in.d_k);
  check_span("v", in.v, in.tokens, in.d_v);
  check_span("v_hat", in.v_hat, in.tokens, in.d_v);
}

void refuse_attention_logit(std::int64_t query_head, std::int64_t position) {
  refuse("query head " + std::to_string(query_head) + ", position " + std::to_string(position) +
         ": a logit overflows float32: check the scale of q and k");
}

LogitComparison compare_logits(std::span<const double> logits, std::span<const double> logits_hat,
                               std::span<float> p, std::span<float> p_hat) {
  const auto top = std::max_element(logits.begin(), logits.end());
  const auto top_hat = std::max_element(logits_hat.begin(), logits_hat.end());
  LogitComparison result;
  result.pairs = static_cast<std::int64_t>(logits.size());
  result.same_top1 = top - logits.begin() == top_hat - logits_hat.begin();
  double sum = 0;
  double sum_hat = 0;
  double weighted_gap = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double below = logits[i] - *top;
    const double below_hat = logits_hat[i] - *top_hat;
    const double weight = std::exp(below);
    const double weight_hat = std::exp(below_hat);
    sum += weight;
    sum_hat += weight_hat;
    weighted_gap += weight * (below - below_hat);
    result.error_energy += (logits[i] - logits_hat[i]) * (logits[i] - logits_hat[i]);
    p[i] = as_weight(weight);
    p_hat[i] = as_weight(weight_hat);
  }
  result.kl = std::max(0.0, weighted_gap / sum + (std::log(sum_hat) - std::log(sum)));
  for (float& weight : p) weight = static_cast<float>(weight / sum);
  for (float& weight : p_hat) weight = static_cast<float>(weight / sum_hat);
  return result;
}

void AttentionStats::add_logits(const LogitComparison& query) {
  pairs_ += query.pairs;
  error_energy_ += query.error_energy;
  if (query.pairs < 2) return;
  const double largest = std::numeric_limits<float>::max();
  kl_.push_back(static_cast<float>(std::min(query.kl, largest)));
  kl_sum_ += query.kl;
  top1_agreed_ += query.same_top1 ? 1 : 0;
}

void AttentionStats::merge(const AttentionStats& other) {
  pairs_ += other.pairs_;
  top1_agreed_ += other.top1_agreed_;
  error_energy_ += other.error_energy_;
  kl_sum_ += other.kl_sum_;
  const std::size_t count = other.kl_.size();
  for (std::size_t i = 0; i < count; ++i) kl_.push_back(other.kl_[i]);
  outputs_.merge(other.outputs_);
}

double AttentionStats::logit_rmse() const {
  return pairs_ == 0 ? kNothingMeasured : std::sqrt(error_energy_ / static_cast<double>(pairs_));
}

double AttentionStats::kl_mean() const {
  return kl_.empty() ? kNothingMeasured : kl_sum_ / static_cast<double>(kl_.size());
}

double AttentionStats::kl_p99() const { return nearest_rank_percentile(kl_, 99); }

double AttentionStats::kl_max() const {
  return kl_.empty() ? kNothingMeasured : *std::max_element(kl_.begin(), kl_.end());
}

double AttentionStats::top1_agreement() const {
  if (kl_.empty()) return kNothingMeasured;
  return static_cast<double>(top1_agreed_) / static_cast<double>(kl_.size());
}

double AttentionStats::output_relative_error() const { return std::sqrt(outputs_.relative_mse()); }

AttentionStats measure_attention(const AttentionInputs& in) {
  check_attention_inputs(in);
  Attention attention(in);
  AttentionStats stats;
  for (std::int64_t head = 0; head < in.query_heads; ++head) {
    for (std::int64_t first = 0; first < in.q_tokens; first += kBlockQueries) {
      attention.measure_block(head, first, std::min(kBlockQueries, in.q_tokens - first), stats);
    }
  }
  return stats;
}

}  // namespace tq
