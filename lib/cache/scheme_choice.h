// Ways to keep a cache, by name: what a comparison lists.
//
//   k4v3, tq4                  tq's own: K 4 bits and V 3; both 4. 16 bits: kept as they are
//   k4v3+center+outliers32:5   with what stands beside the codes, any of: qjl, center, outliersC:B, boundaryN[:B], sinksS,
//                              recentW, groupG, effortE, corrected, least-squares, f16-norms, rht1, qr, identity
//   q8_0, kivi2, vllm:...      another system's (lib/cache/foreign_methods.h)
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "lib/cache/cache_hook.h"
#include "lib/cache/foreign_methods.h"
#include "lib/cache/kv_codecs.h"

namespace tq {

struct SchemeChoice {
  std::string name;
  std::optional<KvSchemeOptions> options;  ///< nothing: another system's
};

/// Throws UsageError that says which part of the name is not known, or does not go with the others.
SchemeChoice parse_scheme_choice(const std::string& name);

/// A layer as caches see it.
struct CachedLayer {
  LayerPlace place;
  std::int64_t kv_heads = 0;
  int k_dim = 0, v_dim = 0;
  DType k_dtype = DType::kF32, v_dtype = DType::kF32;  ///< of the rows that come
};

/// The caches of a choice. Not thread-safe; what it returns is.
class CacheMaker {
 public:
  /// The backend must outlive the maker and its caches, which run on up to `threads` threads.
  CacheMaker(const SchemeChoice& choice, const Backend& backend, int threads);
  /// Error as KvSchemeOptions::scheme_of() and make_foreign_cache().
  LayerCache make(const CachedLayer& shape);

 private:
  std::string name_;
  std::optional<KvCodecs> codecs_;
  const Backend& backend_;
  int threads_;
};

}  // namespace tq
