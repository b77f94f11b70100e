#include "lib/io/config_text.h"

#include <algorithm>

namespace tq {

ConfigText without_non_finite(std::string_view text) {
  constexpr std::string_view kWords[] = {"NaN", "Infinity", "-Infinity"};
  ConfigText out;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size();) {
    const std::string_view rest = text.substr(i);
    const auto* const word = std::find_if(std::begin(kWords), std::end(kWords), [&](std::string_view w) { return rest.starts_with(w); });
    if (!in_string && word != std::end(kWords)) {
      out.json += "null";
      out.has_non_finite = true;
      i += word->size();
      continue;
    }
    const bool is_escape = in_string && text[i] == '\\' && i + 1 < text.size();
    if (text[i] == '"') in_string = !in_string;
    out.json.append(text, i, is_escape ? 2 : 1);
    i += is_escape ? 2 : 1;
  }
  return out;
}

}  // namespace tq
