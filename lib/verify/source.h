// Where the rows that verify measures come from: a captured dump, or Gaussian noise that says so.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lib/io/kv_dump.h"

namespace tq {

enum class Part { kKeys, kValues, kQueries };

/// One layer as attention sees it. Shapes in elements.
struct SourceLayer {
  int index = 0;
  std::int64_t kv_heads = 0;
  std::int64_t tokens = 0;
  int k_dim = 0;
  int v_dim = 0;
  DType k_dtype = DType::kF32, v_dtype = DType::kF32;  ///< that keys and values came in
  std::int64_t query_heads = 0;  ///< 0: no queries were captured
  std::int64_t q_tokens = 0;
  double attention_scale = 1.0;
  std::optional<double> softcap;
  std::optional<std::int64_t> window;
  std::vector<float> sinks{};  ///< one a query head, or none
};

class KvSource {
 public:
  virtual ~KvSource() = default;
  /// Begins an error message, such as the dump's path.
  virtual std::string name() const = 0;
  virtual const std::vector<SourceLayer>& layers() const = 0;
  /// Rows of one head [tokens][dim] (for queries: [q_tokens][k_dim] of query head `head`), float32. Throws Error for
  /// values that are not finite. Thread-safe.
  virtual std::vector<float> read_head(std::size_t layer, Part part, std::int64_t head) const = 0;
};

/// A dump, which must outlive the source.
std::unique_ptr<KvSource> make_dump_source(const KvDump& dump);

struct SyntheticShape {
  int layers = 2;
  std::int64_t kv_heads = 4;
  std::int64_t tokens = 1024;
  int k_dim = 128;
  int v_dim = 128;
  std::uint32_t seed = 1;
};

/// Independent standard normal values, the same on every machine for a seed. Without queries.
std::unique_ptr<KvSource> make_synthetic_source(const SyntheticShape& shape);

}  // namespace tq
