#include "lib/pack/name_pattern.h"

#include <fmt/format.h>

#include "lib/error.h"

namespace tq {
namespace {

Pcre compile(const std::string& pattern) {
  try {
    return Pcre(pattern, Pcre::Dialect::kPerl);
  } catch (const PcreError& error) {
    throw UsageError(fmt::format("the regular expression '{}' is wrong at character {}: {}", pattern, error.offset, error.what()));
  }
}

}  // namespace

NamePattern::NamePattern(const std::string& pattern) : pattern_(pattern), pcre_(compile(pattern)) {}

bool NamePattern::matches(std::string_view name) const {
  try {
    return pcre_.find(name, 0, false).has_value();
  } catch (const PcreError& error) {
    throw Error(fmt::format("the regular expression '{}' cannot be matched with a tensor's name: {}; make it simpler", pattern_,
                            error.what()));
  }
}

}  // namespace tq
