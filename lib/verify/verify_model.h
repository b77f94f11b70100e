// verify on what a model's attention reads: one prefill of a prompt, then everything that is done with
// a dump, on the queries, keys and values of every layer that is cached.
#pragma once

#include "lib/error.h"
#include "lib/model/prompt.h"
#include "lib/verify/verify_kv.h"

namespace tq {

/// "measurement invalid": the model was run, and what it made of the prompt says nothing.
struct InvalidMeasurement : Error {
  InvalidMeasurement(const std::string& what, const ModelNumbers& model_numbers) : Error(what), numbers(model_numbers) {}
  ModelNumbers numbers;  ///< perplexity is NaN where it was not computed
};

struct VerifyModelOptions {
  VerifyOptions verify;
  bool mla_latent = false;       ///< see PrefillOptions
  bool allow_random = false;     ///< measure also a model that reads the prompt badly
  double max_perplexity = 200;   ///< above it, weights or tokenizer are broken, or the text is none
  std::int64_t min_predictions = 127;
  Progress prefill_progress;     ///< gets weights in stored bytes
};

/// Memory: keys and values of all layers in float32, and the queries that attention is measured on.
/// InvalidMeasurement where the model's own perplexity on the prompt is above
/// max_perplexity, or there are fewer than min_predictions, unless random weights are allowed.
/// Error: those of check_cache(), prefill() and verify_source().
VerifyReport verify_model(const Model& model, const Prompt& prompt, const VerifyModelOptions& options,
                          const Backend& backend);

}  // namespace tq
