#include "lib/verify/scheme_hook.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "lib/cache/kv_codecs.h"
#include "lib/error.h"

namespace tq {
namespace {

using Codecs = std::vector<std::shared_ptr<const CacheCodec>>;

Codecs codecs_of(KvCodecs& all, KvPart part, const LayerKv& kv) {
  const LayerPlace place{kv.layer, static_cast<std::size_t>(kv.layer), static_cast<std::size_t>(kv.layers)};
  const auto dim = static_cast<int>(part == KvPart::kKeys ? kv.k_dim : kv.v_dim);
  return all.find_heads(part, place, kv.kv_heads, dim, DType::kF32);
}

/// What stands in the place of a codec, or of its decoder; made once a codec.
using Controls = std::map<std::shared_ptr<const CacheCodec>, std::shared_ptr<const CacheCodec>>;

std::shared_ptr<const CacheMethod> make_method(Codecs codecs, const Backend& backend, int threads,
                                               std::optional<Control> control, Controls& made) {
  if (!control) return make_cache_method(std::move(codecs), backend, threads);
  Codecs others;
  for (const auto& codec : codecs) {
    auto& other = made[codec];
    if (other == nullptr) {
      other = std::make_shared<const CacheCodec>(*control == Control::kOneBit ? with_bits(codec->scheme(), 1)
                                                                              : codec->with_seed(codec->scheme().rows.seed + 1));
    }
    others.push_back(other);
  }
  if (*control == Control::kOneBit) return make_cache_method(std::move(others), backend, threads);
  return make_cache_method(std::move(codecs), backend, threads, std::move(others));
}

}  // namespace

LayerHook make_scheme_hook(const KvSchemeOptions& scheme, const Backend& backend, int threads,
                           std::optional<Control> control) {
  if (control == Control::kZeros) {
    return [](LayerKv& kv) {
      std::fill(kv.k.begin(), kv.k.end(), 0.0f);
      std::fill(kv.v.begin(), kv.v.end(), 0.0f);
    };
  }
  if (control == Control::kPermuted) throw Error("permuted tokens stand in no pass: a cache keeps the order of its tokens");
  return make_cache_hook([all = std::make_shared<KvCodecs>(scheme), made = std::make_shared<Controls>(), &backend, threads,
                          control](const LayerKv& kv) {
    return LayerCache{make_method(codecs_of(*all, KvPart::kKeys, kv), backend, threads, control, *made),
                      make_method(codecs_of(*all, KvPart::kValues, kv), backend, threads, control, *made)};
  });
}

}  // namespace tq
