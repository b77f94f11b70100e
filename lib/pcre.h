// The one way to PCRE2: a compiled regular expression, matched against UTF-8. Its users choose the dialect and the words of errors.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace tq {

/// PCRE2's own words; `offset` is the byte of the pattern at which it does not compile.
struct PcreError : std::runtime_error {
  PcreError(const std::string& what, std::size_t at) : std::runtime_error(what), offset(at) {}
  std::size_t offset;
};

/// Copyable (shares the compiled code); matching is thread-safe.
class Pcre {
 public:
  enum class Dialect {
    kPerl,         ///< Perl's syntax, on characters
    kUnicodeLines  ///< the same, with Unicode's classes, and ^ and $ at every line (LF)
  };

  /// Throws PcreError for a pattern that does not compile.
  Pcre(std::string_view pattern, Dialect dialect);

  /// Begin and end, in bytes, of the first match that begins at `from` or later. Throws PcreError where that needs more steps or
  /// memory than PCRE2's limits allow: it never hangs. `is_valid`: `text` is known to be UTF-8; else that is checked.
  std::optional<std::pair<std::size_t, std::size_t>> find(std::string_view text, std::size_t from, bool is_valid) const;

 private:
  std::shared_ptr<const void> code_;
};

}  // namespace tq
