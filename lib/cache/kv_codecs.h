// The codecs of a whole cache, made as they are asked for: heads with the same scheme share one.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lib/cache/cache_codec.h"
#include "lib/cache/kv_options.h"

namespace tq {

/// Not thread-safe.
class KvCodecs {
 public:
  explicit KvCodecs(KvSchemeOptions options) : options_(std::move(options)) {}

  const KvSchemeOptions& options() const { return options_; }
  /// Error as KvSchemeOptions::scheme_of() and CacheCodec.
  std::shared_ptr<const CacheCodec> find(KvPart part, const LayerPlace& place, std::int64_t head, int dim, DType source) {
    const CacheScheme scheme = options_.scheme_of(part, place, head, dim, source);
    std::shared_ptr<const CacheCodec>& codec = codecs_[format_cache_scheme(scheme)];
    if (codec == nullptr) codec = std::make_shared<const CacheCodec>(scheme, options_.effort);
    return codec;
  }

  /// One codec for all heads of a layer, or one a head where they differ.
  std::vector<std::shared_ptr<const CacheCodec>> find_heads(KvPart part, const LayerPlace& place, std::int64_t kv_heads, int dim,
                                                            DType source) {
    const std::int64_t heads = options_.differs_by_head(part, place) ? kv_heads : 1;
    std::vector<std::shared_ptr<const CacheCodec>> codecs;
    for (std::int64_t head = 0; head < heads; ++head) codecs.push_back(find(part, place, head, dim, source));
    return codecs;
  }

 private:
  KvSchemeOptions options_;
  std::map<std::string, std::shared_ptr<const CacheCodec>> codecs_;
};

}  // namespace tq
