// The codecs of a whole cache, made as they are asked for: heads with the same scheme share one.
#pragma once

#include <map>
#include <memory>
#include <string>

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

 private:
  KvSchemeOptions options_;
  std::map<std::string, std::shared_ptr<const CacheCodec>> codecs_;
};

}  // namespace tq
