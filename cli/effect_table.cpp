#include "cli/effect_table.h"

#include <fmt/format.h>

#include "cli/terminal.h"
#include "lib/measure/block_bootstrap.h"

namespace tq::cli {
namespace {

std::string format_interval(const Interval& interval) {
  return fmt::format("{:.4g} (95 % {:.4g}..{:.4g})", interval.estimate, interval.low, interval.high);
}

std::string describe_change(const EffectReport& effect) {
  if (effect.weights.empty()) return "K and V compressed";
  return fmt::format("{} weights of {}", effect.cache ? "K and V compressed, and" : "the", effect.weights);
}

std::string describe_greedy(const GreedyNumbers& greedy) {
  if (!greedy.first_divergence) return fmt::format("the same {} tokens", greedy.tokens);
  return fmt::format("{} of {} tokens the same, then another", *greedy.first_divergence, greedy.tokens);
}

}  // namespace

std::string format_effect(const EffectReport& effect) {
  const TokenSummary& t = effect.numbers.tokens;
  std::string text = fmt::format("Effect on the model: {}\n", describe_change(effect));
  if (!effect.weights.empty()) {
    text += fmt::format("Weights       {} -> {} bytes ({:.2f}x)\n", format_count(effect.reference_weight_bytes),
                        format_count(effect.weight_bytes),
                        static_cast<double>(effect.reference_weight_bytes) / static_cast<double>(effect.weight_bytes));
  }
  if (t.predictions == 0) return text + "no predictions: one token has none before it\n";
  text += fmt::format("KL, nats      mean {}, standard error {:.2g}, median {:.4g}, p99 {:.4g}, max {:.4g}\n",
                      format_interval(t.kl), t.kl_standard_error, t.kl_median, t.kl_p99, t.kl_max);
  text += fmt::format("Perplexity    {:.4g} -> {:.4g}, ratio {}\n", t.reference_perplexity, t.perplexity,
                      format_interval(t.perplexity_ratio));
  text += fmt::format("Top-1 same    {}\n", format_interval(t.top1));
  text += fmt::format("Logit cosine  mean {:.5f}, min {:.5f}\n", t.cosine_mean, t.cosine_min);
  if (effect.numbers.greedy) text += fmt::format("Greedy        {}\n", describe_greedy(*effect.numbers.greedy));
  return text + fmt::format("Intervals     {} predictions, {} resamples of blocks of {} tokens\n", t.predictions, kResamples,
                            t.block_tokens);
}

}  // namespace tq::cli
