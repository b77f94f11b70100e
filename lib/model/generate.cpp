#include "lib/model/generate.h"

#include <algorithm>

namespace tq {

std::vector<std::int32_t> generate_greedily(const Model& model, std::span<const std::int32_t> prompt, std::int64_t tokens,
                                            const PrefillOptions& options) {
  KvState state{static_cast<std::int64_t>(prompt.size()) + tokens, 0, {}};
  PrefillOptions run = options;
  run.state = &state;
  std::vector<std::int32_t> found;
  for (std::int64_t i = 0; i < tokens; ++i) {
    const std::vector<float> hidden = prefill(model, i == 0 ? prompt : std::span<const std::int32_t>(&found.back(), 1), run);
    const std::span<const float> last = std::span(hidden).last(static_cast<std::size_t>(model.config().hidden));
    const std::vector<float> logits = compute_logits(model, last, 1, options.threads, options.device);
    found.push_back(static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
  }
  return found;
}

}  // namespace tq
