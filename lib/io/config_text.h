// config.json as it is found: Python's json writes numbers that JSON has not.
#pragma once

#include <string>
#include <string_view>

namespace tq {

struct ConfigText {
  std::string json;             ///< the text with null in the place of NaN, Infinity and -Infinity
  bool has_non_finite = false;  ///< there was one: the text must not be written anew from what was parsed
};

ConfigText without_non_finite(std::string_view text);

}  // namespace tq
