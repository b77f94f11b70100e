#include "lib/cache/cache_hook.h"

#include <fmt/format.h>

#include <algorithm>

#include "lib/error.h"

namespace tq {
namespace {

std::int64_t recent_tokens(const LayerCache& cache, int layer) {
  if (!cache.k) return cache.v->recent_tokens();
  const std::int64_t recent = cache.k->recent_tokens();
  if (!cache.v || cache.v->recent_tokens() == recent) return recent;
  throw Error(fmt::format("layer {}: the cache keeps the newest {} tokens of K and {} of V; a model reads both or neither",
                          layer, recent, cache.v->recent_tokens()));
}

/// x as the cache hands it out.
std::vector<float> read_back(const CacheMethod* method, const std::vector<float>& x, const LayerKv& kv, char part) {
  if (method == nullptr) return x;
  std::vector<float> x_hat(x.size());
  method->round_trip(x, kv.kv_heads, kv.tokens, x_hat, fmt::format("layer {}: {}", kv.layer, part));
  return x_hat;
}

}  // namespace

LayerHook make_cache_hook(CacheOf cache_of) {
  return [cache_of = std::move(cache_of)](LayerKv& kv) {
    const LayerCache cache = cache_of(kv);
    if (!cache.k && !cache.v) return;
    std::vector<float> k_hat = read_back(cache.k.get(), kv.k, kv, 'K');
    std::vector<float> v_hat = read_back(cache.v.get(), kv.v, kv, 'V');
    kv.recent = recent_tokens(cache, kv.layer);
    if (kv.recent > 0) {
      kv.recent_k = std::move(kv.k);
      kv.recent_v = std::move(kv.v);
    }
    kv.k = std::move(k_hat);
    kv.v = std::move(v_hat);
  };
}

}  // namespace tq
