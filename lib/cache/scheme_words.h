// What stands beside the codes of a cache, in words: "center+sinks4+recent64+effort2". Scheme names and scheme files have them.
#pragma once

#include <optional>
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

/// What the readers of a scheme's name share: a whole number from the front of `text`, which is left behind it, and the
/// UsageError that names the scheme.
std::optional<int> take_number(std::string_view& text);
[[noreturn]] void refuse_scheme(const std::string& name, const std::string& what);

}  // namespace tq
