// The cache of one KvSchemeOptions, as a forward pass reads it, or a negative control in its place.
#pragma once

#include <optional>

#include "lib/backend.h"
#include "lib/cache/cache_hook.h"
#include "lib/cache/kv_options.h"
#include "lib/verify/report.h"

namespace tq {

/// Every layer, K and V (lib/cache/cache_codec.h). Controls: kZeros, kOtherSeed and kOneBit, as Control says, of K
/// and V at once; Error for another. The backend must outlive the hook, which is not thread-safe.
LayerHook make_scheme_hook(const KvSchemeOptions& scheme, const Backend& backend, int threads,
                           std::optional<Control> control = {});

}  // namespace tq
