// Regular expressions that choose tensors by name: Perl's syntax, on UTF-8.
#pragma once

#include <string>
#include <string_view>

#include "lib/pcre.h"

namespace tq {

/// A compiled pattern. Matching is thread-safe.
class NamePattern {
 public:
  /// Throws UsageError, which says where, for a pattern that does not compile.
  explicit NamePattern(const std::string& pattern);

  /// True if the pattern matches somewhere in `name`. Throws Error where that takes too many steps: it never hangs.
  bool matches(std::string_view name) const;

 private:
  std::string pattern_;
  Pcre pcre_;
};

}  // namespace tq
