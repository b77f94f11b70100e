// A forward pass that reads a compressed cache: the hook of lib/model/prefill.h that puts each layer's keys and values
// through a cache. Every position then attends to the compressed history, its own key and value included, as a decoder does
// that writes before it reads.
#pragma once

#include <functional>
#include <memory>

#include "lib/cache/cache_method.h"
#include "lib/model/prefill.h"

namespace tq {

/// The caches of one layer; nothing: K, or V, stays exact.
struct LayerCache {
  std::shared_ptr<const CacheMethod> k, v;
};

/// Decides by what is known of the layer: its index, heads and dims.
using CacheOf = std::function<LayerCache(const LayerKv&)>;

/// The newest tokens that a method keeps (CacheMethod::recent_tokens) are read exactly; where K and V are both compressed,
/// they must keep as many, else Error. Error: those of round_trip(), which begin with "layer L: K" or "layer L: V".
LayerHook make_cache_hook(CacheOf cache_of);

}  // namespace tq
