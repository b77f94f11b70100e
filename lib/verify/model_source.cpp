#include "lib/verify/model_source.h"

#include <algorithm>

namespace tq {

void ModelSource::add(const LayerKv& kv) {
  SourceLayer layer;
  layer.index = kv.layer;
  layer.kv_heads = kv.kv_heads;
  layer.tokens = kv.tokens;
  layer.k_dim = static_cast<int>(kv.k_dim);
  layer.v_dim = static_cast<int>(kv.v_dim);
  layer.query_heads = kv.heads;
  layer.q_tokens = std::min(kv.tokens, most_queries_);
  layer.attention_scale = kv.scale;
  layer.softcap = kv.softcap;
  layer.window = kv.window;
  layer.sinks = kv.sinks;
  std::vector<float> q;
  for (std::int64_t h = 0; h < kv.heads; ++h) {
    const auto end = kv.q.begin() + (h + 1) * kv.tokens * kv.k_dim;
    q.insert(q.end(), end - layer.q_tokens * kv.k_dim, end);
  }
  layers_.push_back(std::move(layer));
  parts_.push_back({kv.k, kv.v, std::move(q)});
}

std::vector<float> ModelSource::read_head(std::size_t layer, Part part, std::int64_t head) const {
  const SourceLayer& shape = layers_[layer];
  const std::int64_t count = part == Part::kKeys     ? shape.tokens * shape.k_dim
                             : part == Part::kValues ? shape.tokens * shape.v_dim
                                                     : shape.q_tokens * shape.k_dim;
  const auto first = parts_[layer][static_cast<std::size_t>(part)].begin() + head * count;
  return {first, first + count};
}

}  // namespace tq
