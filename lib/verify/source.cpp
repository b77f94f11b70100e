#include "lib/verify/source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lib/backend.h"
#include "lib/convert.h"
#include "lib/error.h"
#include "lib/rotation.h"

namespace tq {
namespace {

class DumpSource final : public KvSource {
 public:
  explicit DumpSource(const KvDump& dump) : dump_(dump) {
    for (const KvLayer& layer : dump.layers()) {
      SourceLayer out;
      out.index = layer.index;
      out.kv_heads = layer.k.heads;
      out.tokens = layer.k.tokens;
      out.k_dim = layer.k.head_dim;
      out.v_dim = layer.v.head_dim;
      out.k_dtype = layer.k.info.dtype;
      out.v_dtype = layer.v.info.dtype;
      if (layer.q) {
        out.query_heads = layer.q->heads;
        out.q_tokens = layer.q->tokens;
      }
      out.attention_scale = dump.attention_scale(layer);
      out.softcap = dump.attention_softcap();
      out.window = dump.sliding_window(layer);
      out.sinks = dump.sinks(layer);
      layers_.push_back(out);
    }
  }

  std::string name() const override { return dump_.file().file().path(); }
  const std::vector<SourceLayer>& layers() const override { return layers_; }

  std::vector<float> read_head(std::size_t layer, Part part, std::int64_t head) const override {
    const KvLayer& from = dump_.layers()[layer];
    const KvTensor& tensor = part == Part::kKeys ? from.k : part == Part::kValues ? from.v : *from.q;
    const std::int64_t count = tensor.tokens * tensor.head_dim;
    std::vector<std::byte> raw(static_cast<std::size_t>(count) * size_of(tensor.info.dtype));
    dump_.file().read(tensor.info, static_cast<std::uint64_t>(head) * raw.size(), raw);
    std::vector<float> rows(static_cast<std::size_t>(count));
    convert_to_float(tensor.info.dtype, raw.data(), count, rows.data());
    const auto bad = std::find_if(rows.begin(), rows.end(), [](float x) { return !std::isfinite(x); });
    if (bad == rows.end()) return rows;
    const std::int64_t place = bad - rows.begin();
    throw Error(fmt::format("{}: {}: head {}, token {}, channel {}: the value is {}; only finite values can be measured, "
                            "so look at the run that captured it", dump_.file().file().path(), tensor.info.name, head,
                            place / tensor.head_dim, place % tensor.head_dim, std::isnan(*bad) ? "NaN" : "infinite"));
  }

 private:
  const KvDump& dump_;
  std::vector<SourceLayer> layers_;
};

class SyntheticSource final : public KvSource {
 public:
  explicit SyntheticSource(const SyntheticShape& shape) : shape_(shape) {
    for (int i = 0; i < shape.layers; ++i) {
      SourceLayer layer;
      layer.index = i;
      layer.kv_heads = shape.kv_heads;
      layer.tokens = shape.tokens;
      layer.k_dim = shape.k_dim;
      layer.v_dim = shape.v_dim;
      layer.attention_scale = 1.0 / std::sqrt(shape.k_dim);
      layers_.push_back(layer);
    }
  }

  std::string name() const override { return "--synthetic"; }
  const std::vector<SourceLayer>& layers() const override { return layers_; }

  std::vector<float> read_head(std::size_t layer, Part part, std::int64_t head) const override {
    const bool keys = part == Part::kKeys;
    const auto stream = (static_cast<std::uint32_t>(layer) * 2 + (keys ? 0 : 1)) *
                            static_cast<std::uint32_t>(shape_.kv_heads) + static_cast<std::uint32_t>(head);
    const auto count = static_cast<int>(shape_.tokens * (keys ? shape_.k_dim : shape_.v_dim));
    const std::vector<double> normals = draw_normals(shape_.seed * 0x9e3779b9u + stream, count);
    return {normals.begin(), normals.end()};
  }

 private:
  SyntheticShape shape_;
  std::vector<SourceLayer> layers_;
};

}  // namespace

std::unique_ptr<KvSource> make_dump_source(const KvDump& dump) { return std::make_unique<DumpSource>(dump); }

std::unique_ptr<KvSource> make_synthetic_source(const SyntheticShape& shape) {
  return std::make_unique<SyntheticSource>(shape);
}

}  // namespace tq
