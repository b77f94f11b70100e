// What a change does to a model's output, token by token: its logits beside those of the reference over the same text, each
// token predicted from the true tokens before it (teacher-forced). With l and m the logits of reference and other,
// p = softmax(l), q = softmax(m), and n the token that really comes next:
//   KL            sum p (ln p - ln q), nats: 0 where the two agree
//   loss          -ln p(n) and -ln q(n); perplexity is exp of the mean loss, so that the ratio of perplexities is exp of
//                 the mean difference
//   top-1         whether the largest logit is at the same token; of equal logits the first counts
//   logit cosine  <l, m> / (|l| |m|); it moves with a shift of all logits, which p does not see: a figure to compare with
//                 others that report it
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tq {

struct TokenComparison {
  double kl = 0;
  double reference_loss = 0, loss = 0;
  double cosine = 0;
  bool same_top1 = false;
};

/// Rows of logits [vocab] of the same length, and 0 <= next < vocab. In double, by log-sum-exp: equal rows give a KL of
/// exactly 0 and equal losses. Rounding below 0 is clamped to 0. Logits that are not finite give a KL that is not finite.
TokenComparison compare_token(std::span<const float> reference, std::span<const float> other, std::int32_t next);

/// An estimate with its two-sided 95 % interval (lib/measure/block_bootstrap.h).
struct Interval {
  double estimate = 0, low = 0, high = 0;
};

/// Of no predictions every number is NaN.
struct TokenSummary {
  std::int64_t windows = 0;      ///< that have predictions
  std::int64_t predictions = 0;
  std::int64_t block_tokens = 0; ///< of the bootstrap
  Interval kl;                   ///< mean, nats; low is at least 0
  double kl_standard_error = 0;
  double kl_median = 0, kl_p99 = 0, kl_max = 0;  ///< nearest rank
  double reference_perplexity = 0, perplexity = 0;
  Interval perplexity_ratio;     ///< perplexity / reference_perplexity
  Interval top1;                 ///< share, 0..1; no narrower than the exact binomial interval (Clopper and Pearson), which
                                 ///< is not empty where all tokens agree
  double cosine_mean = 0, cosine_min = 0;
};

/// One vector a window; blocks of the bootstrap stay within one.
TokenSummary summarize_tokens(std::span<const std::vector<TokenComparison>> windows);

}  // namespace tq
