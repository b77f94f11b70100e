#include "lib/verify/verify_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "lib/error.h"
#include "lib/model/capture.h"

namespace tq {
namespace {

/// What one prefill left behind.
class ModelSource final : public KvSource {
 public:
  ModelSource(std::string name, std::int64_t queries) : name_(std::move(name)), most_queries_(queries) {}

  void add(const LayerKv& kv) {
    SourceLayer layer;
    layer.index = kv.layer;
    layer.kv_heads = kv.kv_heads;
    layer.tokens = kv.tokens;
    layer.k_dim = static_cast<int>(kv.k_dim);
    layer.v_dim = static_cast<int>(kv.v_dim);
    layer.query_heads = kv.heads;
    layer.q_tokens = std::min(kv.tokens, most_queries_);
    layer.attention_scale = kv.scale;
    layer.softcap = kv.softcap;
    layer.window = kv.window;
    layer.sinks = kv.sinks;
    std::vector<float> q;
    for (std::int64_t h = 0; h < kv.heads; ++h) {
      const auto end = kv.q.begin() + (h + 1) * kv.tokens * kv.k_dim;
      q.insert(q.end(), end - layer.q_tokens * kv.k_dim, end);
    }
    layers_.push_back(std::move(layer));
    parts_.push_back({kv.k, kv.v, std::move(q)});
  }

  std::string name() const override { return name_; }
  const std::vector<SourceLayer>& layers() const override { return layers_; }

  std::vector<float> read_head(std::size_t layer, Part part, std::int64_t head) const override {
    const SourceLayer& shape = layers_[layer];
    const std::int64_t count = part == Part::kKeys     ? shape.tokens * shape.k_dim
                               : part == Part::kValues ? shape.tokens * shape.v_dim
                                                       : shape.q_tokens * shape.k_dim;
    const auto first = parts_[layer][static_cast<std::size_t>(part)].begin() + head * count;
    return {first, first + count};
  }

 private:
  std::string name_;
  std::int64_t most_queries_;
  std::vector<SourceLayer> layers_;
  std::vector<std::array<std::vector<float>, 3>> parts_;  // keys, values, queries
};

void check_predictions(const Model& model, const ModelNumbers& numbers, const VerifyModelOptions& options) {
  if (options.allow_random || numbers.predictions >= options.min_predictions) return;
  const auto many = [](std::int64_t count, const char* what) { return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s"); };
  throw InvalidMeasurement(fmt::format("{}: measurement invalid: {} has {}, so {}, and the reference perplexity needs {} or more; "
                                       "give more --tokens, or --allow-random to do without", model.dir(), numbers.prompt,
                                       many(numbers.tokens, "token"), many(numbers.predictions, "prediction"),
                                       options.min_predictions), numbers);
}

void check_perplexity(const Model& model, const ModelNumbers& numbers, const VerifyModelOptions& options) {
  if (options.allow_random || numbers.perplexity <= options.max_perplexity) return;
  throw InvalidMeasurement(fmt::format("{}: measurement invalid: the reference perplexity on {} is {:.4g} over {} predictions, "
                                       "above {:g}: the weights or the tokenizer are broken, or the text is not what the model "
                                       "reads; --allow-random measures all the same", model.dir(), numbers.prompt,
                                       numbers.perplexity, numbers.predictions, options.max_perplexity), numbers);
}

ModelNumbers describe(const Model& model, const Prompt& prompt, const VerifyModelOptions& options) {
  ModelNumbers numbers;
  numbers.name = model_name(model);
  numbers.family = model.config().model_type;
  numbers.layers = static_cast<std::int64_t>(model.config().layers.size());
  numbers.latent = model.config().mla.has_value() && options.mla_latent;
  numbers.prompt = prompt.source;
  numbers.tokens = static_cast<std::int64_t>(prompt.ids.size());
  numbers.tokens_available = prompt.available;
  numbers.predictions = numbers.tokens - 1;
  numbers.perplexity = std::numeric_limits<double>::quiet_NaN();
  numbers.max_perplexity = options.max_perplexity;
  return numbers;
}

}  // namespace

VerifyReport verify_model(const Model& model, const Prompt& prompt, const VerifyModelOptions& options,
                          const Backend& backend) {
  check_cache(model.config(), options.mla_latent);
  ModelNumbers numbers = describe(model, prompt, options);
  check_predictions(model, numbers, options);
  ModelSource source(model.dir(), options.verify.measure.attention_queries);
  PrefillOptions run;
  run.threads = options.verify.measure.threads;
  run.mla_latent = options.mla_latent;
  run.progress = options.prefill_progress;
  run.hook = [&](LayerKv& kv) { source.add(kv); };
  const std::vector<float> hidden = prefill(model, prompt.ids, run);
  numbers.perplexity = perplexity(token_losses(model, hidden, prompt.ids, run.threads));
  check_perplexity(model, numbers, options);
  numbers.plausible = numbers.perplexity <= options.max_perplexity && numbers.predictions >= options.min_predictions;

  VerifyReport report = verify_source(source, options.verify, backend);
  report.source_kind = "model";
  report.source_path = model.dir();
  report.model = numbers.name;
  for (const SourceLayer& layer : source.layers()) {
    report.dump_bytes += static_cast<std::uint64_t>(layer.kv_heads * layer.tokens * (layer.k_dim + layer.v_dim)) * 2;
  }
  if (!numbers.plausible) {
    const std::string reference = numbers.predictions == 0 ? "there are no predictions"
                                                           : fmt::format("the reference perplexity is {:.4g} over {} predictions",
                                                                         numbers.perplexity, numbers.predictions);
    report.warnings.push_back(fmt::format("--allow-random: {} (a measurement needs at most {:g} over {}): the numbers say nothing of a "
                                          "trained model", reference, options.max_perplexity, options.min_predictions));
  }
  report.model_numbers = std::move(numbers);
  return report;
}

}  // namespace tq
