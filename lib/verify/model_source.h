// The queries, keys and values that a forward pass leaves behind, as a source of rows.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "lib/model/prefill.h"
#include "lib/verify/source.h"

namespace tq {

/// Memory: keys and values of all layers in float32, and the queries that are kept.
class ModelSource final : public KvSource {
 public:
  /// `queries`: how many of each head's last ones are kept.
  ModelSource(std::string name, std::int64_t queries) : name_(std::move(name)), most_queries_(queries) {}

  /// A layer, in order: for the hook of a forward pass.
  void add(const LayerKv& kv);

  std::string name() const override { return name_; }
  const std::vector<SourceLayer>& layers() const override { return layers_; }
  std::vector<float> read_head(std::size_t layer, Part part, std::int64_t head) const override;

 private:
  std::string name_;
  std::int64_t most_queries_;
  std::vector<SourceLayer> layers_;
  std::vector<std::array<std::vector<float>, 3>> parts_;  // keys, values, queries
};

}  // namespace tq
