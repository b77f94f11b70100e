// What attention sees of a compressed cache: causal softmax attention over K and V, and over their
// reconstructions, at the model's own scale, soft cap and window. A key can keep a cosine of 0.99
// and still lose the softmax; these numbers show it. Numbers only: limits live elsewhere.
//
// To ask what the keys alone cost, give v as v_hat; what the values alone cost, k as k_hat. A
// negative control replaces the same spans.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "lib/measure/error_stats.h"

namespace tq {

/// One KV head with the group of query heads that share it. Float32, row-major, as attention sees
/// them (after bias, QK norm and RoPE). Row t of k and v is the token at position t; query i is at
/// position tokens - q_tokens + i.
struct AttentionInputs {
  std::span<const float> q{};      ///< [query_heads, q_tokens, d_k]
  std::span<const float> k{};      ///< [tokens, d_k]
  std::span<const float> k_hat{};  ///< [tokens, d_k] the reconstruction of k, or k itself
  std::span<const float> v{};      ///< [tokens, d_v]
  std::span<const float> v_hat{};  ///< [tokens, d_v] the reconstruction of v, or v itself
  std::int64_t query_heads = 1;
  std::int64_t q_tokens = 0;  ///< 1..tokens; fewer than tokens: the last positions only
  std::int64_t tokens = 0;
  std::int64_t d_k = 0;
  std::int64_t d_v = 0;             ///< may differ from d_k
  double scale = 1;                 ///< logit = scale <q, k>; 1/sqrt(d_k) in most models
  std::optional<double> softcap{};  ///< > 0: logit becomes cap tanh(logit / cap), after the scale
  /// >= 1: a query at position t sees keys t-window+1..t; none: it sees 0..t.
  std::optional<std::int64_t> window{};
  /// >= 0: a query at position t reads keys and values t-recent+1..t from k and v on both sides: a cache keeps its newest tokens.
  std::int64_t recent = 0;
  /// [query_heads] or none: a logit more in each softmax, the same on both sides, without a value.
  std::span<const float> sinks{};
};

/// One query's logits over its visible keys, against those from the reconstructed keys.
struct LogitComparison {
  std::int64_t pairs = 0;   ///< visible keys
  double error_energy = 0;  ///< sum (logit - logit_hat)^2
  double kl = 0;            ///< KL(p || p_hat) = sum p ln(p / p_hat), nats, p = softmax(logits)
  /// The largest logit is at the same key; of equal logits the first counts, on both sides.
  bool same_top1 = false;
};

/// Compares two rows of logits of the same length, at least 1, all finite, and writes their
/// softmaxes to p and p_hat (same length; a weight below 1e-30 is written as 0). Softmax in double
/// with the maximum subtracted; KL from log-sum-exp, so that an underflowing p_hat stays finite and
/// equal logits give exactly 0. Rounding below 0, of the order of 1e-15, is clamped to 0.
LogitComparison compare_logits(std::span<const double> logits, std::span<const double> logits_hat,
                               std::span<float> p, std::span<float> p_hat);

/// Attention error over queries. Memory: 8 bytes a query (its KL and its output's cosine). NaN
/// where nothing was measured, as in ErrorStats.
class AttentionStats {
 public:
  /// Adds one query's logits. A query that sees a single key has p = p_hat = 1 whatever the key, so
  /// it counts in logit_rmse but not in KL and top-1.
  void add_logits(const LogitComparison& query);

  /// Adds one query's output o = sum_t p_t v_t and o_hat = sum_t p_hat_t v_hat_t, each [d_v].
  void add_output(std::span<const float> o, std::span<const float> o_hat) {
    outputs_.add_row(o, o_hat);
  }

  /// Adds the outputs of queries by their sums, [d_v] values each.
  void add_output_sums(std::span<const RowSums> outputs, int d_v) { outputs_.add_sums(outputs, d_v); }

  /// Adds what `other` saw. As ErrorStats::merge: counts, percentile and maximum are the same
  /// however the queries were grouped, sums agree to rounding.
  void merge(const AttentionStats& other);

  std::int64_t queries() const { return outputs_.rows(); }  ///< over all query heads
  std::int64_t pairs() const { return pairs_; }             ///< visible (query, key) pairs

  /// Queries that see two keys or more: those that KL and top-1 are about.
  std::int64_t compared_queries() const { return static_cast<std::int64_t>(kl_.size()); }

  /// sqrt(sum (logit - logit_hat)^2 / pairs), over all visible pairs, of the logits that enter the
  /// softmax (scaled and capped). An error that is equal for all keys of a query counts here,
  /// though the softmax does not see it.
  double logit_rmse() const;

  double kl_mean() const;  ///< mean over compared queries of KL(p || p_hat), nats
  double kl_p99() const;   ///< its 99th percentile, nearest rank, to float precision
  double kl_max() const;   ///< its maximum, to float precision

  /// Share of compared queries whose largest logit is at the same key, 0..1.
  double top1_agreement() const;

  /// sqrt(sum |o - o_hat|^2 / sum |o|^2) over all queries; all-zero outputs as in
  /// ErrorStats::relative_mse.
  double output_relative_error() const;

  /// mean over queries of <o, o_hat> / (|o| |o_hat|). High whenever the softmax is flat: read it
  /// beside KL.
  double output_cosine_mean() const { return outputs_.cosine_mean(); }

  /// The outputs' own statistics, one row a query.
  const ErrorStats& outputs() const { return outputs_; }

 private:
  std::int64_t pairs_ = 0;
  std::int64_t top1_agreed_ = 0;
  double error_energy_ = 0;
  double kl_sum_ = 0;
  std::vector<float> kl_;
  ErrorStats outputs_;
};

/// Runs attention with (k, v) and with (k_hat, v_hat) and compares them, query by query, head after
/// head. Products are float32, everything after them double. With k_hat equal to k and v_hat to v,
/// every error is exactly 0. Memory beside the inputs: copies of k, k_hat, v, v_hat, and 4 x 64 x
/// tokens floats. Work per query head and visible pair: 4 (d_k + d_v) float operations and two exp.
/// One thread; threads take KV heads and merge. Throws Error, naming the input: a shape that does
/// not fit its span, a setting out of range, NaN or infinity in an input (by index), or a logit
/// that overflows float32 (by query head and position).
AttentionStats measure_attention(const AttentionInputs& in);

/// measure_attention(), or something that measures the same elsewhere (kernels/gpu_forward.h). Thread-safe.
using MeasureAttention = std::function<AttentionStats(const AttentionInputs&)>;

/// The Errors of measure_attention(): those of its inputs, and of a logit that is not finite.
void check_attention_inputs(const AttentionInputs& in);
[[noreturn]] void refuse_attention_logit(std::int64_t query_head, std::int64_t position);

}  // namespace tq
