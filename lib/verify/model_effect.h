// What a change does to a model's output: one reference pass over a text, then a pass with the change for each of any number
// of changes (compressed caches, packed weights, or both), compared logits by logits (lib/measure/token_stats.h).
//
// Every pass is teacher-forced: position t reads the true tokens 0..t, and its attention what a cache would hand out for all
// of them. That is what decoding that text one token at a time computes, in one causal pass; only the text is given, not
// chosen. A cache that codes its tokens in groups, or leaves a mean to the end, sees the same rows here as there as long as
// its round trip of a row does not depend on later ones.
#pragma once

#include <vector>

#include "lib/error.h"
#include "lib/model/prompt.h"
#include "lib/verify/report.h"

namespace tq {

/// "measurement invalid": the model was run, and what it made of the prompt says nothing.
struct InvalidMeasurement : Error {
  InvalidMeasurement(const std::string& what, const ModelNumbers& model_numbers) : Error(what), numbers(model_numbers) {}
  ModelNumbers numbers;  ///< perplexity is NaN where it was not computed
};

struct EffectOptions {
  int threads = 1;
  bool mla_latent = false;     ///< see PrefillOptions
  bool allow_random = false;   ///< measure also a model that reads the text badly
  double max_perplexity = 200; ///< above it, weights or tokenizer are broken, or the text is none
  std::int64_t min_predictions = 127;
  std::int64_t greedy = 0;     ///< tokens that the reference generates after the first window; 0: none
  LayerHook on_first_window;   ///< sees the reference's layers in the first window, and changes nothing
  Progress progress;           ///< gets weights in stored bytes
  ForwardDevice* device = nullptr;  ///< as in PrefillOptions; must outlive what uses these options
};

/// Memory: the reference's hidden states after the final norm, tokens x hidden floats; in measure() twice logit_rows() x vocab floats
/// beside a forward pass. One measure() at a time.
class ModelEffect {
 public:
  /// Runs the reference. The model must outlive this. InvalidMeasurement where its perplexity on the text is
  /// above max_perplexity, or there are fewer than min_predictions, unless random weights are allowed; a greedy
  /// continuation that does not fit the context; those of prefill().
  ModelEffect(const Model& model, TextWindows text, EffectOptions options);

  const TextWindows& text() const { return text_; }
  /// What was run, and how it reads: name, shape, windows, perplexity.
  const ModelNumbers& reference() const { return numbers_; }
  /// Of the reference; NaN without predictions.
  double perplexity() const { return numbers_.perplexity; }
  /// Perplexity and predictions are within their limits.
  bool plausible() const;
  /// Of the reference pass, greedy tokens included.
  double seconds() const { return seconds_; }
  /// The tokens that the reference generated after the first window.
  const std::vector<std::int32_t>& generated() const { return generated_; }

  /// The reference's own weights, with another cache.
  EffectNumbers measure(const LayerHook& cache) const { return measure(model_, cache); }
  /// Other weights, with or without another cache. Error: as check_same_model(), and those of prefill().
  EffectNumbers measure(const Model& other, const LayerHook& cache = {}) const;
  /// The same without greedy decoding and time.
  TokenSummary compare(const Model& other, const LayerHook& cache = {}) const;

 private:
  PrefillOptions run_options(const LayerHook& hook) const;
  GreedyNumbers compare_greedy(const Model& other, const LayerHook& cache) const;

  const Model& model_;
  TextWindows text_;
  EffectOptions options_;
  std::vector<std::vector<float>> hidden_;  // one a window
  std::vector<std::int32_t> generated_;
  ModelNumbers numbers_;
  double seconds_ = 0;
};

/// Error, naming both directories and what differs, unless tokens and hidden states mean the same in both: vocabulary, layers,
/// heads and their dims, context and, where both have one, the bytes of tokenizer.json.
void check_same_model(const Model& model, const Model& other);

}  // namespace tq
