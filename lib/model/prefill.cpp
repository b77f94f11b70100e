#include "lib/model/prefill.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lib/error.h"
#include "lib/model/layer_parts.h"
#include "lib/model/linear.h"
#include "lib/model/ops.h"
#include "lib/model/rope.h"

namespace tq {
namespace {

using Floats = std::vector<float>;

Floats embed(const Model& model, std::span<const std::int32_t> ids, int threads) {
  const ModelConfig& config = model.config();
  const auto scale = static_cast<float>(config.embedding_scale);
  Floats x(ids.size() * static_cast<std::size_t>(config.hidden));
  parallel_for(threads, static_cast<std::int64_t>(ids.size()), [&](std::int64_t t) {
    float* row = x.data() + t * config.hidden;
    model.reader().read_rows(*model.layout().embedding, ids[static_cast<std::size_t>(t)], 1, row);
    for (std::int64_t i = 0; i < config.hidden; ++i) row[i] *= scale;
  });
  return x;
}

/// `out` becomes the norm of x; they may be the same.
void apply_norm(const RunContext& context, const Norm& norm, const Floats& x, std::int64_t dim, Floats& out) {
  const LoadedNorm loaded(*context.reader, norm);
  out.resize(x.size());
  parallel_for(context.threads, static_cast<std::int64_t>(x.size()) / dim,
               [&](std::int64_t t) { loaded.apply(x.data() + t * dim, out.data() + t * dim, 1, dim, dim); });
}

void add_scaled(const RunContext& context, const Floats& y, double scale, std::int64_t dim, Floats& x) {
  const auto factor = static_cast<float>(scale);
  parallel_for(context.threads, static_cast<std::int64_t>(x.size()) / dim, [&](std::int64_t t) {
    for (std::int64_t i = t * dim; i < (t + 1) * dim; ++i) x[static_cast<std::size_t>(i)] += factor * y[static_cast<std::size_t>(i)];
  });
}

void check_finite(const RunContext& context, const Floats& x, const ModelConfig& config, std::size_t layer) {
  parallel_for(context.threads, static_cast<std::int64_t>(x.size()) / config.hidden, [&](std::int64_t t) {
    const float* row = x.data() + t * config.hidden;
    if (std::all_of(row, row + config.hidden, [](float v) { return std::isfinite(v); })) return;
    throw Error(fmt::format("{}: the hidden state of token {} is not finite after layer {}: the weights are damaged, or "
                            "the family's arithmetic overflows float32", config.path, t, layer));
  });
}

void check_logits(const Model& model, std::span<const float> logits, std::int64_t token) {
  if (std::all_of(logits.begin(), logits.end(), [](float v) { return std::isfinite(v); })) return;
  throw Error(fmt::format("{}: the logits are not finite at token {}: the weights of the final norm or of the output head are "
                          "damaged, or overflow float32", model.dir(), token));
}

/// One layer: x becomes x + attention + MLP, each behind the norms that the family has.
void run_layer(const LayerInput& in, const RopeTable& rope, const PrefillOptions& options, Floats& x) {
  const std::int64_t hidden = in.config.hidden;
  LayerBuffers& b = in.buffers;
  apply_norm(in.context, in.layout.before_attention, x, hidden, b.attention_input);
  run_attention(in, rope, options, b.attention_input, b.attention);
  if (in.layout.after_attention) apply_norm(in.context, in.layout.after_attention, b.attention, hidden, b.attention);
  add_scaled(in.context, b.attention, in.config.residual_scale, hidden, x);

  if (!in.config.parallel) apply_norm(in.context, in.layout.before_mlp, x, hidden, b.mlp_input);
  run_mlp(in, in.config.parallel ? b.attention_input : b.mlp_input, b.mlp);
  if (in.layout.after_mlp) apply_norm(in.context, in.layout.after_mlp, b.mlp, hidden, b.mlp);
  add_scaled(in.context, b.mlp, in.config.residual_scale, hidden, x);
}

/// Tokens that were read before.
std::int64_t begin_state(const ModelConfig& config, std::int64_t tokens, KvState* state) {
  if (state == nullptr) return 0;
  if (state->capacity > config.context || state->tokens + tokens > state->capacity) {
    throw Error(fmt::format("{}: {} tokens after {} are more than the {} that were announced, or these more than its "
                            "context of {}", config.path, tokens, state->tokens, state->capacity, config.context));
  }
  state->layers.resize(config.layers.size());
  return state->tokens;
}

}  // namespace

Model::Model(std::string dir, ModelConfig config, std::unique_ptr<Backend> backend, std::optional<std::uint32_t> seed)
    : dir_(std::move(dir)), config_(std::move(config)), backend_(std::move(backend)),
      reader_(WeightReader::open(dir_, *backend_, seed)) {
  layout_ = plan_layout(config_, reader_, dir_);
}

Model Model::open(const std::string& model, std::optional<std::uint32_t> seed) {
  const std::string dir = find_model_dir(model);
  ModelConfig config = read_model_config(dir);
  return Model(dir, std::move(config), make_cpu_backend(), seed);
}

void check_tokens(const Model& model, std::span<const std::int32_t> ids) {
  const ModelConfig& config = model.config();
  if (ids.empty()) throw Error("the prompt has no tokens");
  if (static_cast<std::int64_t>(ids.size()) > config.context) {
    throw Error(fmt::format("the prompt has {} tokens, and the context of {} ends at {}; lower --tokens", ids.size(),
                            config.path, config.context));
  }
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < config.vocab) continue;
    throw Error(fmt::format("token {} of the prompt has the id {}, and the vocabulary of {} ends at {}: the tokens are "
                            "another model's", i, ids[i], config.path, config.vocab - 1));
  }
}

std::vector<float> prefill(const Model& model, std::span<const std::int32_t> ids, const PrefillOptions& options) {
  check_tokens(model, ids);
  const ModelConfig& config = model.config();
  const RunContext context = {&model.reader(), options.threads, options.progress, options.device};
  const auto tokens = static_cast<std::int64_t>(ids.size());
  const std::int64_t past = begin_state(config, tokens, options.state);
  const std::int64_t positions = options.state != nullptr ? options.state->capacity : tokens;
  std::vector<RopeTable> ropes;
  for (const RopeConfig& rope : config.ropes) ropes.push_back(make_rope_table(rope, positions));
  Floats x = embed(model, ids, options.threads);
  LayerBuffers buffers;
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    const LayerConfig& layer = config.layers[i];
    const LayerInput in = {context, config, model.layout().layers[i], layer, static_cast<int>(i), tokens, past, buffers};
    run_layer(in, ropes[static_cast<std::size_t>(layer.rope_set)], options, x);
    check_finite(context, x, config, i);
  }
  if (options.state != nullptr) options.state->tokens += tokens;
  apply_norm(context, model.layout().final_norm, x, config.hidden, x);
  return x;
}

std::vector<float> compute_logits(const Model& model, std::span<const float> hidden, std::int64_t rows, int threads,
                                  ForwardDevice* device) {
  Floats logits;
  compute_logits(model, hidden, rows, threads, device, logits);
  return logits;
}

void compute_logits(const Model& model, std::span<const float> hidden, std::int64_t rows, int threads, ForwardDevice* device,
                    std::vector<float>& logits) {
  const ModelConfig& config = model.config();
  apply_linear({&model.reader(), threads, {}, device}, model.layout().head, hidden, rows, logits);
  if (config.logit_divisor == 1 && !config.final_softcap) return;
  parallel_for(threads, rows, [&](std::int64_t r) {
    const auto row = std::span(logits).subspan(static_cast<std::size_t>(r * config.vocab), static_cast<std::size_t>(config.vocab));
    if (config.logit_divisor != 1) {
      for (float& logit : row) logit /= static_cast<float>(config.logit_divisor);
    }
    if (config.final_softcap) cap_softly(*config.final_softcap, row);
  });
}

std::int64_t logit_rows(const ForwardDevice* device) { return device != nullptr ? 256 : 64; }

std::vector<double> token_losses(const Model& model, std::span<const float> hidden, std::span<const std::int32_t> ids,
                                 int threads, ForwardDevice* device) {
  const std::int64_t width = model.config().hidden, vocab = model.config().vocab;
  const auto predictions = static_cast<std::int64_t>(ids.size()) - 1;
  std::vector<double> losses(static_cast<std::size_t>(std::max<std::int64_t>(predictions, 0)));
  Floats logits;
  for (std::int64_t first = 0; first < predictions; first += logit_rows(device)) {
    const std::int64_t rows = std::min(logit_rows(device), predictions - first);
    const auto block = hidden.subspan(static_cast<std::size_t>(first * width), static_cast<std::size_t>(rows * width));
    compute_logits(model, block, rows, threads, device, logits);
    parallel_for(threads, rows, [&](std::int64_t r) {
      const std::span<const float> row(logits.data() + r * vocab, static_cast<std::size_t>(vocab));
      check_logits(model, row, first + r);
      const auto most = static_cast<double>(*std::max_element(row.begin(), row.end()));
      double sum = 0;
      for (const float logit : row) sum += std::exp(static_cast<double>(logit) - most);
      const auto next = static_cast<std::size_t>(ids[static_cast<std::size_t>(first + r + 1)]);
      losses[static_cast<std::size_t>(first + r)] = most + std::log(sum) - static_cast<double>(row[next]);
    });
  }
  return losses;
}

double perplexity(std::span<const double> losses) {
  double sum = 0;
  for (const double loss : losses) sum += loss;
  return std::exp(sum / static_cast<double>(losses.size()));
}

}  // namespace tq
