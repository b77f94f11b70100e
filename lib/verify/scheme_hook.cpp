#include "lib/verify/scheme_hook.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "lib/cache/row_method.h"
#include "lib/error.h"

namespace tq {
namespace {

std::shared_ptr<const CacheMethod> make_method(const Scheme& scheme, const Backend& backend, int threads,
                                               std::optional<Control> control) {
  if (control == Control::kOneBit) {
    Scheme one_bit = default_scheme(1, scheme.dim, scheme.rotation, scheme.seed);
    one_bit.norm = scheme.norm;
    return std::make_shared<RowMethod>(std::make_shared<const Codec>(one_bit), backend, threads);
  }
  const auto codec = std::make_shared<const Codec>(scheme);
  if (control != Control::kOtherSeed) return std::make_shared<RowMethod>(codec, backend, threads);
  return std::make_shared<RowMethod>(codec, std::make_shared<const Codec>(codec->with_seed(scheme.seed + 1)), backend, threads);
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
  using Methods = std::map<std::pair<char, std::int64_t>, std::shared_ptr<const CacheMethod>>;
  const auto method_of = [scheme, &backend, threads, control, methods = std::make_shared<Methods>()](char part,
                                                                                                    std::int64_t dim) {
    std::shared_ptr<const CacheMethod>& method = (*methods)[{part, dim}];
    if (method == nullptr) {
      const auto width = static_cast<int>(dim);
      const Scheme rows = part == 'k' ? scheme.key_scheme(width) : scheme.value_scheme(width);
      method = make_method(rows, backend, threads, control);
    }
    return method;
  };
  return make_cache_hook([method_of](const LayerKv& kv) { return LayerCache{method_of('k', kv.k_dim), method_of('v', kv.v_dim)}; });
}

}  // namespace tq
