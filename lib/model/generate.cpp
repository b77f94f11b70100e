#include "lib/model/generate.h"

#include <algorithm>

namespace tq {

std::vector<std::int32_t> generate_greedily(const Model& model, std::span<const std::int32_t> prompt, std::int64_t tokens,
                                            const PrefillOptions& options) {
  std::vector<std::int32_t> ids(prompt.begin(), prompt.end());
  for (std::int64_t i = 0; i < tokens; ++i) {
    const std::vector<float> hidden = prefill(model, ids, options);
    const std::span<const float> last = std::span(hidden).last(static_cast<std::size_t>(model.config().hidden));
    const std::vector<float> logits = compute_logits(model, last, 1, options.threads);
    ids.push_back(static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
  }
  ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(prompt.size()));
  return ids;
}

}  // namespace tq
