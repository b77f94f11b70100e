#include "lib/verify/compare_schemes.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lib/error.h"
#include "lib/measure/attention_stats.h"
#include "lib/measure/error_stats.h"
#include "lib/parallel.h"

namespace tq {
namespace {

std::vector<float> read_part(const KvSource& source, std::size_t layer, Part part, std::int64_t heads) {
  std::vector<float> all;
  for (std::int64_t head = 0; head < heads; ++head) {
    const std::vector<float> rows = source.read_head(layer, part, head);
    all.insert(all.end(), rows.begin(), rows.end());
  }
  return all;
}

struct LayerSums {
  ErrorStats k, v;
  std::optional<AttentionStats> attention;
};

std::string where_of(const SourceLayer& layer, const char* part) { return std::string(part) + "." + std::to_string(layer.index); }

/// The last queries of the query heads that share KV head `head`.
std::vector<float> last_queries(const KvSource& source, std::size_t layer, std::int64_t head, std::int64_t queries) {
  const SourceLayer& shape = source.layers()[layer];
  const std::int64_t group = shape.query_heads / shape.kv_heads;
  std::vector<float> q;
  for (std::int64_t i = 0; i < group; ++i) {
    const std::vector<float> all = source.read_head(layer, Part::kQueries, head * group + i);
    q.insert(q.end(), all.end() - queries * shape.k_dim, all.end());
  }
  return q;
}

LayerSums measure_layer(const KvSource& source, std::size_t index, const LayerCache& cache, const Backend& backend,
                        const CompareOptions& options) {
  const SourceLayer& shape = source.layers()[index];
  const std::vector<float> k = read_part(source, index, Part::kKeys, shape.kv_heads);
  const std::vector<float> v = read_part(source, index, Part::kValues, shape.kv_heads);
  std::vector<float> k_hat(k.size()), v_hat(v.size());
  cache.k->round_trip(k, shape.kv_heads, shape.tokens, k_hat, where_of(shape, "k"));
  cache.v->round_trip(v, shape.kv_heads, shape.tokens, v_hat, where_of(shape, "v"));
  LayerSums sums;
  const std::int64_t rows = shape.kv_heads * shape.tokens;
  compare_rows(backend, shape.k_dim, DType::kF32, k.data(), DType::kF32, k_hat.data(), rows, sums.k);
  compare_rows(backend, shape.v_dim, DType::kF32, v.data(), DType::kF32, v_hat.data(), rows, sums.v);
  if (shape.query_heads == 0) return sums;
  const std::int64_t group = shape.query_heads / shape.kv_heads;
  const std::int64_t queries = std::min(shape.q_tokens, options.attention_queries);
  const auto k_size = static_cast<std::size_t>(shape.tokens * shape.k_dim);
  const auto v_size = static_cast<std::size_t>(shape.tokens * shape.v_dim);
  const std::span<const float> sinks = shape.sinks;
  sums.attention.emplace();
  for (std::int64_t head = 0; head < shape.kv_heads; ++head) {
    const std::vector<float> q = last_queries(source, index, head, queries);
    const auto h = static_cast<std::size_t>(head);
    sums.attention->merge(options.attention(
        {.q = q, .k = std::span(k).subspan(h * k_size, k_size), .k_hat = std::span(k_hat).subspan(h * k_size, k_size),
         .v = std::span(v).subspan(h * v_size, v_size), .v_hat = std::span(v_hat).subspan(h * v_size, v_size),
         .query_heads = group, .q_tokens = queries, .tokens = shape.tokens, .d_k = shape.k_dim, .d_v = shape.v_dim,
         .scale = shape.attention_scale, .softcap = shape.softcap, .window = shape.window,
         .recent = cache.k->recent_tokens(),
         .sinks = sinks.empty() ? sinks : sinks.subspan(h * static_cast<std::size_t>(group), static_cast<std::size_t>(group))}));
  }
  return sums;
}

CachedLayer shape_of(const KvSource& source, std::size_t index) {
  const SourceLayer& layer = source.layers()[index];
  return {{layer.index, index, source.layers().size()}, layer.kv_heads, layer.k_dim, layer.v_dim, layer.k_dtype, layer.v_dtype};
}

/// A layer with a window holds no more tokens than that.
void count_bytes(const KvSource& source, const std::vector<LayerCache>& caches, SchemeNumbers& n) {
  double bits = 0, values = 0;
  for (std::size_t i = 0; i < caches.size(); ++i) {
    const SourceLayer& layer = source.layers()[i];
    const auto held = [&](std::int64_t tokens) { return layer.window ? std::min(tokens, *layer.window) : tokens; };
    const auto bytes = [&](std::int64_t tokens) {
      return static_cast<double>(caches[i].k->bytes(layer.kv_heads, tokens) + caches[i].v->bytes(layer.kv_heads, tokens));
    };
    n.bytes_per_token += bytes(held(layer.tokens)) / static_cast<double>(layer.tokens);
    n.bytes_per_token_long += bytes(held(kLongContext)) / static_cast<double>(kLongContext);
    bits += 8 * bytes(held(layer.tokens));
    values += static_cast<double>(layer.kv_heads * (layer.k_dim + layer.v_dim) * held(layer.tokens));
  }
  n.bits_per_value = bits / values;
}

double metric_of(const SchemeNumbers& n) {
  if (n.effect) return n.effect->tokens.kl.estimate;
  return n.has_attention ? attention_cost(n) : n.k_relative_mse + n.v_relative_mse;
}

}  // namespace

double attention_cost(const SchemeNumbers& n) { return n.kl_mean + 0.5 * n.output_error * n.output_error; }

SchemeNumbers measure_scheme(const KvSource& source, const SchemeChoice& choice, const Backend& backend,
                             const CompareOptions& options) {
  SchemeNumbers n;
  n.name = choice.name;
  CacheMaker maker(choice, backend, 1);
  std::vector<LayerCache> caches;
  try {
    for (std::size_t i = 0; i < source.layers().size(); ++i) caches.push_back(maker.make(shape_of(source, i)));
  } catch (const Error& error) {
    n.refused = error.what();
    return n;
  }
  n.k_scheme = caches.front().k->describe();
  n.v_scheme = caches.front().v->describe();
  count_bytes(source, caches, n);

  std::vector<LayerSums> of_worker(static_cast<std::size_t>(options.threads));
  ErrorStats k, v;
  n.k_cosine = n.v_cosine = std::numeric_limits<double>::infinity();
  n.has_attention = true;
  parallel_ordered(
      options.threads, static_cast<std::int64_t>(caches.size()),
      [&](std::int64_t i, int worker) {
        const auto layer = static_cast<std::size_t>(i);
        of_worker[static_cast<std::size_t>(worker)] = measure_layer(source, layer, caches[layer], backend, options);
      },
      [&](std::int64_t, int worker) {
        const LayerSums& sums = of_worker[static_cast<std::size_t>(worker)];
        k.merge(sums.k);
        v.merge(sums.v);
        n.k_cosine = std::min(n.k_cosine, sums.k.cosine_flattened());
        n.v_cosine = std::min(n.v_cosine, sums.v.cosine_flattened());
        n.has_attention = n.has_attention && sums.attention.has_value();
        if (!sums.attention) return;
        const auto layers = static_cast<double>(caches.size());
        n.kl_mean += sums.attention->kl_mean() / layers;
        n.kl_worst_layer = std::max(n.kl_worst_layer, sums.attention->kl_mean());
        n.top1 += sums.attention->top1_agreement() / layers;
        n.output_error += sums.attention->output_relative_error() / layers;
      });
  n.k_relative_mse = k.relative_mse();
  n.v_relative_mse = v.relative_mse();
  return n;
}

LayerHook make_choice_hook(const SchemeChoice& choice, const Backend& backend, int threads) {
  return make_cache_hook([maker = std::make_shared<CacheMaker>(choice, backend, threads)](const LayerKv& kv) {
    const LayerPlace place{kv.layer, static_cast<std::size_t>(kv.layer), static_cast<std::size_t>(kv.layers)};
    return maker->make({place, kv.kv_heads, static_cast<int>(kv.k_dim), static_cast<int>(kv.v_dim)});
  });
}

bool CompareReport::any_measured() const {
  return std::any_of(schemes.begin(), schemes.end(), [](const SchemeNumbers& n) { return n.refused.empty(); });
}

void mark_pareto(CompareReport& report) {
  for (SchemeNumbers& one : report.schemes) {
    const auto beats = [&](const SchemeNumbers& other) {
      if (!other.refused.empty()) return false;
      const bool no_worse = other.bytes_per_token <= one.bytes_per_token && metric_of(other) <= metric_of(one);
      return no_worse && (other.bytes_per_token < one.bytes_per_token || metric_of(other) < metric_of(one));
    };
    one.pareto = one.refused.empty() && std::isfinite(metric_of(one)) && std::none_of(report.schemes.begin(), report.schemes.end(), beats);
  }
}

CompareReport compare_schemes(const KvSource& source, const std::vector<SchemeChoice>& choices, const ModelEffect* effect,
                              const Backend& backend, const CompareOptions& options) {
  CompareReport report;
  report.source = source.name();
  report.layers = static_cast<std::int64_t>(source.layers().size());
  report.tokens = source.layers().front().tokens;
  for (const SchemeChoice& choice : choices) {
    if (options.on_scheme) options.on_scheme(choice.name);
    SchemeNumbers n;
    try {
      n = measure_scheme(source, choice, backend, options);
      if (effect != nullptr && n.refused.empty()) n.effect = effect->measure(make_choice_hook(choice, backend, options.threads));
    } catch (const Error& error) {  // rows that the scheme cannot hold
      n = {};
      n.name = choice.name;
      n.refused = error.what();
    }
    report.schemes.push_back(std::move(n));
  }
  const bool attention = std::any_of(report.schemes.begin(), report.schemes.end(), [](const SchemeNumbers& n) { return n.has_attention; });
  report.metric = effect != nullptr ? "output KL" : attention ? "attention cost" : "relative MSE";
  if (effect != nullptr) {
    report.perplexity = effect->perplexity();
    report.plausible = effect->plausible();
    report.predictions = effect->text().predictions();
  }
  mark_pareto(report);
  return report;
}

}  // namespace tq
