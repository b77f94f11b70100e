// Schemes side by side: the same rows, or the same text through the same model, under each of a list of caches, at the bytes
// that each really takes.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lib/backend.h"
#include "lib/cache/scheme_choice.h"
#include "lib/measure/attention_stats.h"
#include "lib/verify/model_effect.h"
#include "lib/verify/source.h"

namespace tq {

/// The context at which buffers that do not grow are spread over tokens, beside that of the rows.
inline constexpr std::int64_t kLongContext = 32768;

struct SchemeNumbers {
  std::string name;
  std::string refused;               ///< why the scheme cannot hold these rows; then nothing else is set
  std::string k_scheme, v_scheme;    ///< of the first layer, as CacheMethod::describe()
  double bytes_per_token = 0;        ///< all layers, K and V, padding included, at the tokens that were measured
  double bytes_per_token_long = 0;   ///< the same at kLongContext
  double bits_per_value = 0;         ///< of bytes_per_token
  double k_relative_mse = 0, v_relative_mse = 0;  ///< of all layers together
  double k_cosine = 0, v_cosine = 0;              ///< flattened, of the worst layer
  bool has_attention = false;        ///< there were queries
  double kl_mean = 0, kl_worst_layer = 0;         ///< softmax, nats: mean over layers, and the worst layer's mean
  double top1 = 0, output_error = 0;              ///< means over layers
  std::optional<EffectNumbers> effect;            ///< of a model
  bool pareto = false;               ///< no other scheme has both fewer bytes, where it was measured, and less of the last metric there is:
                                     ///< the output's KL, the cost of attention, or the relative MSE of K and V
};

struct CompareReport {
  std::string source;                ///< path of the dump, or of the model
  std::string metric;                ///< what Pareto is about: "output KL", "attention cost", "relative MSE"
  std::int64_t tokens = 0;           ///< of the rows that codec and attention saw
  std::int64_t layers = 0;
  std::int64_t predictions = 0;      ///< of a model
  double perplexity = 0;             ///< of a model, uncompressed
  bool plausible = true;             ///< of a model: it reads the text within the limits
  std::vector<SchemeNumbers> schemes;  ///< in the order given

  bool any_measured() const;
};

struct CompareOptions {
  int threads = 1;
  std::int64_t attention_queries = 512;
  MeasureAttention attention = measure_attention;  ///< what measures attention: the CPU, or a device
  std::function<void(const std::string& name)> on_scheme;  ///< told before each scheme is measured
};

/// Mean KL of the softmax and half the squared relative error of the output, which is what noise of that energy costs a unit
/// signal: K is in both, V in the second.
double attention_cost(const SchemeNumbers& numbers);

/// `effect`: null where the source is no model. A scheme that refuses the dims, or a row, says so in its row.
CompareReport compare_schemes(const KvSource& source, const std::vector<SchemeChoice>& choices, const ModelEffect* effect,
                              const Backend& backend, const CompareOptions& options);

/// Each layer of a dump or of a model's first window, one scheme: what compare_schemes() does for a row, without the model.
SchemeNumbers measure_scheme(const KvSource& source, const SchemeChoice& choice, const Backend& backend,
                             const CompareOptions& options);

/// The hook of a choice, for ModelEffect::measure(). The backend must outlive it.
LayerHook make_choice_hook(const SchemeChoice& choice, const Backend& backend, int threads);

/// Sets `pareto` of each scheme.
void mark_pareto(CompareReport& report);

/// The report as JSON, and as a Markdown table.
std::string format_compare_json(const CompareReport& report);
std::string format_compare_markdown(const CompareReport& report);

}  // namespace tq
