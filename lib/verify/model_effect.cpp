#include "lib/verify/model_effect.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <filesystem>

#include "lib/error.h"
#include "lib/model/capture.h"
#include "lib/model/generate.h"
#include "lib/model/text_input.h"

namespace tq {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

ModelNumbers describe_run(const Model& model, const TextWindows& text, const EffectOptions& options) {
  ModelNumbers numbers;
  numbers.name = model_name(model);
  numbers.family = model.config().model_type;
  numbers.layers = static_cast<std::int64_t>(model.config().layers.size());
  numbers.latent = model.config().mla.has_value() && options.mla_latent;
  numbers.prompt = text.source;
  numbers.tokens = text.tokens();
  numbers.tokens_available = text.available;
  numbers.windows = static_cast<std::int64_t>(text.ids.size());
  numbers.window = text.window;
  numbers.stride = text.stride();
  numbers.predictions = text.predictions();
  numbers.perplexity = std::numeric_limits<double>::quiet_NaN();
  numbers.max_perplexity = options.max_perplexity;
  return numbers;
}

void check_predictions(const Model& model, const ModelNumbers& numbers, const EffectOptions& options) {
  if (options.allow_random || numbers.predictions >= options.min_predictions) return;
  const auto many = [](std::int64_t count, const char* what) { return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s"); };
  throw InvalidMeasurement(fmt::format("{}: measurement invalid: {} has {}, so {}, and the reference perplexity needs {} or more; "
                                       "give more --tokens, or --allow-random to do without", model.dir(), numbers.prompt,
                                       many(numbers.tokens, "token"), many(numbers.predictions, "prediction"),
                                       options.min_predictions), numbers);
}

void check_perplexity(const Model& model, const ModelNumbers& numbers, const EffectOptions& options) {
  if (options.allow_random || numbers.perplexity <= options.max_perplexity) return;
  throw InvalidMeasurement(fmt::format("{}: measurement invalid: the reference perplexity on {} is {:.4g} over {} predictions, "
                                       "above {:g}: the weights or the tokenizer are broken, or the text is not what the model "
                                       "reads; --allow-random measures all the same", model.dir(), numbers.prompt,
                                       numbers.perplexity, numbers.predictions, options.max_perplexity), numbers);
}

void check_greedy(const Model& model, const TextWindows& text, const EffectOptions& options) {
  const std::int64_t wanted = static_cast<std::int64_t>(text.ids.front().size()) + options.greedy;
  if (wanted <= model.config().context) return;
  throw Error(fmt::format("--greedy {} after {} tokens is more than the context of {} holds: {} tokens; lower --greedy or "
                          "--tokens", options.greedy, text.ids.front().size(), model.dir(), model.config().context));
}

/// Rows first .. first + count - 1 of [tokens][width].
std::span<const float> rows_of(const std::vector<float>& x, std::int64_t width, std::int64_t first, std::int64_t count) {
  return std::span(x).subspan(static_cast<std::size_t>(first * width), static_cast<std::size_t>(count * width));
}

/// Logits of all rows in blocks: use(first row, rows, logits).
template <class Use>
void for_each_block(const Model& model, const std::vector<float>& hidden, std::int64_t first, std::int64_t end,
                    const EffectOptions& options, Use use) {
  std::vector<float> logits;
  for (; first < end; first += logit_rows(options.device)) {
    const std::int64_t rows = std::min(logit_rows(options.device), end - first);
    const std::span<const float> block = rows_of(hidden, model.config().hidden, first, rows);
    compute_logits(model, block, rows, options.threads, options.device, logits);
    use(first, rows, logits);
  }
}

std::vector<TokenComparison> compare_window(const Model& model, const std::vector<float>& hidden, const Model& other,
                                            const std::vector<float>& other_hidden, std::span<const std::int32_t> ids,
                                            const EffectOptions& options) {
  const std::int64_t vocab = model.config().vocab;
  std::vector<TokenComparison> found(ids.size() - 1);
  std::vector<float> changed;
  for_each_block(model, hidden, 0, static_cast<std::int64_t>(found.size()), options,
                 [&](std::int64_t first, std::int64_t rows, const std::vector<float>& logits) {
    compute_logits(other, rows_of(other_hidden, other.config().hidden, first, rows), rows, options.threads, options.device, changed);
    parallel_for(options.threads, rows, [&](std::int64_t r) {
      const auto t = static_cast<std::size_t>(first + r);
      found[t] = compare_token(rows_of(logits, vocab, r, 1), rows_of(changed, vocab, r, 1), ids[t + 1]);
      if (std::isfinite(found[t].kl)) return;
      throw Error(fmt::format("{}: the logits of token {} are not finite", other.dir(), t));
    });
  });
  return found;
}

}  // namespace

ModelEffect::ModelEffect(const Model& model, TextWindows text, EffectOptions options)
    : model_(model), text_(std::move(text)), options_(std::move(options)) {
  if (text_.ids.empty()) check_tokens(model, {});
  numbers_ = describe_run(model, text_, options_);
  check_predictions(model, numbers_, options_);
  if (options_.greedy > 0) check_greedy(model, text_, options_);
  const Clock::time_point start = Clock::now();
  std::vector<double> losses;
  for (std::size_t i = 0; i < text_.ids.size(); ++i) {
    hidden_.push_back(prefill(model, text_.ids[i], run_options(i == 0 ? options_.on_first_window : LayerHook())));
    const std::vector<double> found = token_losses(model, hidden_.back(), text_.ids[i], options_.threads, options_.device);
    losses.insert(losses.end(), found.begin(), found.end());
  }
  numbers_.perplexity = tq::perplexity(losses);
  check_perplexity(model, numbers_, options_);
  numbers_.plausible = plausible();
  if (options_.greedy > 0) generated_ = generate_greedily(model, text_.ids.front(), options_.greedy, run_options({}));
  seconds_ = seconds_since(start);
}

bool ModelEffect::plausible() const {
  return numbers_.perplexity <= options_.max_perplexity && text_.predictions() >= options_.min_predictions;
}

PrefillOptions ModelEffect::run_options(const LayerHook& hook) const {
  return {options_.threads, options_.mla_latent, hook, options_.progress, nullptr, options_.device};
}

GreedyNumbers ModelEffect::compare_greedy(const Model& other, const LayerHook& cache) const {
  std::vector<std::int32_t> ids = text_.ids.front();
  const auto prompt = static_cast<std::int64_t>(ids.size());
  ids.insert(ids.end(), generated_.begin(), generated_.end());
  const std::vector<float> hidden = prefill(other, ids, run_options(cache));
  GreedyNumbers greedy{static_cast<std::int64_t>(generated_.size()), {}};
  for_each_block(other, hidden, prompt - 1, static_cast<std::int64_t>(ids.size()) - 1, options_,
                 [&](std::int64_t first, std::int64_t rows, const std::vector<float>& logits) {
    for (std::int64_t r = 0; r < rows && !greedy.first_divergence; ++r) {
      const std::span<const float> row = rows_of(logits, other.config().vocab, r, 1);
      const auto chosen = std::max_element(row.begin(), row.end()) - row.begin();
      if (chosen != ids[static_cast<std::size_t>(first + r + 1)]) greedy.first_divergence = first + r + 1 - prompt;
    }
  });
  return greedy;
}

TokenSummary ModelEffect::compare(const Model& other, const LayerHook& cache) const {
  if (&other != &model_) check_same_model(model_, other);
  std::vector<std::vector<TokenComparison>> windows;
  for (std::size_t i = 0; i < text_.ids.size(); ++i) {
    const std::vector<float> hidden = prefill(other, text_.ids[i], run_options(cache));
    windows.push_back(compare_window(model_, hidden_[i], other, hidden, text_.ids[i], options_));
  }
  return summarize_tokens(windows);
}

EffectNumbers ModelEffect::measure(const Model& other, const LayerHook& cache) const {
  const Clock::time_point start = Clock::now();
  EffectNumbers numbers;
  numbers.tokens = compare(other, cache);
  if (options_.greedy > 0) numbers.greedy = compare_greedy(other, cache);
  numbers.seconds = seconds_since(start);
  return numbers;
}

void check_same_model(const Model& model, const Model& other) {
  const ModelConfig& a = model.config();
  const ModelConfig& b = other.config();
  const auto check = [&](std::string_view what, const auto& of_model, const auto& of_other) {
    if (of_model == of_other) return;
    throw Error(fmt::format("{} and {} are not the same model: {} is {} in one and {} in the other; pack the model that "
                            "--model names", model.dir(), other.dir(), what, of_model, of_other));
  };
  check("the family", a.model_type, b.model_type);
  check("the number of layers", a.layers.size(), b.layers.size());
  check("the hidden size", a.hidden, b.hidden);
  check("the vocabulary", a.vocab, b.vocab);
  check("the number of heads", a.heads, b.heads);
  check("the number of KV heads", a.kv_heads, b.kv_heads);
  check("the head_dim of K", a.head_dim, b.head_dim);
  check("the head_dim of V", a.v_head_dim, b.v_head_dim);
  check("the context", a.context, b.context);
  const std::string file = model.dir() + "/tokenizer.json", other_file = other.dir() + "/tokenizer.json";
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored) || !std::filesystem::exists(other_file, ignored)) return;
  if (read_text(file) == read_text(other_file)) return;
  throw Error(fmt::format("{} and {} are not the same model: their tokenizer.json differ; pack the model that --model names",
                          model.dir(), other.dir()));
}

}  // namespace tq
