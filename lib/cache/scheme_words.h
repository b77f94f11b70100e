// What stands beside the codes of a cache, in words: "center+sinks4+recent64+effort2". Scheme names and scheme files have them.
#pragma once

#include <string>
#include <string_view>

#include "lib/cache/kv_options.h"

namespace tq {

/// Words with plus signs between: qjl, center, outliersC:B, boundaryN[:B], sinksS, recentW, groupG, effortE, corrected,
/// least-squares, f16-norms, rht1, qr, identity. Sets what they say in `options`. Throws UsageError that names `name` and the
/// word that is not known, or does not go with another.
void read_scheme_words(std::string_view words, const std::string& name, KvSchemeOptions& options);

/// The inverse, of all but bits and seeds; empty where there is nothing to say.
std::string format_scheme_words(const KvSchemeOptions& options);

}  // namespace tq
