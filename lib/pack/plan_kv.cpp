#include "lib/pack/plan_kv.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "lib/error.h"
#include "lib/io/kv_file.h"

namespace tq {
namespace {

const std::string kHashPlaceholder(16, '0');

std::string format_source(const TensorInfo& info) {
  nlohmann::ordered_json json;
  json["name"] = info.name;
  json["dtype"] = std::string(name_of(info.dtype));
  json["shape"] = info.shape;
  return json.dump();
}

class KvPlanner {
 public:
  KvPlan make(const KvDump& dump, const KvSchemeOptions& options) {
    plan_.metadata = {{"format", std::string(kKvFormat)},
                      {"format_version", std::string(kKvFormatVersion)},
                      {std::string(kHeaderHashKey), kHashPlaceholder},
                      {"tool", "tq " TQ_VERSION}};
    std::map<int, std::int64_t> heads;
    for (const KvLayer& layer : dump.layers()) heads[layer.index] = layer.k.heads;
    options.check_layers(heads, dump.file().file().path());
    for (std::size_t i = 0; i < dump.layers().size(); ++i) {
      const KvLayer& layer = dump.layers()[i];
      const LayerPlace place{layer.index, i, dump.layers().size()};
      add_tensor_of(fmt::format("k.{}", layer.index), layer.k, KvPart::kKeys, place, options);
      add_tensor_of(fmt::format("v.{}", layer.index), layer.v, KvPart::kValues, place, options);
    }
    plan_.k_bits = average_bits('k');
    plan_.v_bits = average_bits('v');
    // Tables first, then what has the largest elements: so every tensor starts at a multiple of its element.
    for (const std::size_t size : {4u, 2u, 1u}) {
      for (KvPlanItem& item : plan_.items) add_streams(item, size);
    }
    for (const TensorSpec& tensor : plan_.tensors) plan_.metadata.emplace_back(hash_key(tensor.name), kHashPlaceholder);
    for (const auto& [key, value] : dump.metadata()) plan_.metadata.emplace_back("dump." + key, value);
    // From here on every offset is fixed.
    plan_.total_bytes = SafetensorsWriter(plan_.tensors, plan_.metadata).total_bytes();
    return std::move(plan_);
  }

 private:
  double average_bits(char part) const {
    double bits = 0;
    double values = 0;
    for (const KvPlanItem& item : plan_.items) {
      if (item.name.front() != part) continue;
      bits += item.codec->scheme().value_bits(item.heads, item.source->tokens);
      values += static_cast<double>(item.rows() * item.source->head_dim);
    }
    return bits / values;
  }

  void add_tensor_of(const std::string& name, const KvTensor& source, KvPart part, const LayerPlace& place,
                     const KvSchemeOptions& options) {
    if (!options.differs_by_head(part, place)) {
      add_item(name, source, 0, source.heads, options.scheme_of(part, place, 0, source.head_dim, source.info.dtype), options.effort);
    } else {
      for (std::int64_t head = 0; head < source.heads; ++head) {
        add_item(head_name(name, head), source, head, 1,
                 options.scheme_of(part, place, head, source.head_dim, source.info.dtype), options.effort);
      }
    }
    plan_.metadata.emplace_back(source_key(name), format_source(source.info));
    plan_.input_bytes += source.info.bytes;
  }

  void add_item(const std::string& name, const KvTensor& source, std::int64_t first, std::int64_t heads,
                const CacheScheme& scheme, int effort) {
    plan_.metadata.emplace_back(scheme_key(name), format_cache_scheme(scheme));
    std::vector<StreamSpec> specs = list_streams(scheme, source.tokens);
    std::vector<std::size_t> streams(specs.size());
    plan_.items.push_back({name, &source, first, heads, find_codec(scheme, effort), std::move(specs), std::move(streams)});
  }

  /// Those whose elements have `size` bytes; the norms of an item stand before its other streams.
  void add_streams(KvPlanItem& item, std::size_t size) {
    for (std::size_t i = 0; i < item.specs.size(); ++i) {
      const StreamSpec& spec = item.specs[i];
      if (size_of(spec.dtype) != size) continue;
      std::vector<std::int64_t> shape = spec.shape;
      shape.insert(shape.begin(), item.heads);
      item.streams[i] = add_tensor(item.name + std::string(spec.suffix), spec.dtype, std::move(shape));
    }
  }

  /// The codec of a scheme; its tables join the plan when it is first seen.
  std::shared_ptr<const CacheCodec> find_codec(const CacheScheme& scheme, int effort) {
    std::shared_ptr<const CacheCodec>& codec = codecs_[format_cache_scheme(scheme)];
    if (codec != nullptr) return codec;
    codec = std::make_shared<const CacheCodec>(scheme, effort);
    for (const Codec* rows : {codec->rows(), codec->outliers()}) {
      if (rows != nullptr) add_tables(*rows);
    }
    return codec;
  }

  void add_tables(const Codec& codec) {
    const Scheme& scheme = codec.scheme();
    const Codebook& book = codec.codebook();
    add_table(codebook_tensor(scheme), {1 << book.bits}, {book.levels, book.levels + (1 << book.bits)});
    const std::int64_t order = codec.rotation().matrix_order();
    if (order > 0) add_table(rotation_tensor(scheme), {order, order}, codec.rotation().matrix());
    if (scheme.qjl) add_table(sketch_tensor(scheme), {scheme.dim, scheme.dim}, codec.sketch_matrix());
  }

  void add_table(const std::string& name, std::vector<std::int64_t> shape, std::vector<float> values) {
    const auto same_name = [&](const TensorSpec& tensor) { return tensor.name == name; };
    if (std::any_of(plan_.tensors.begin(), plan_.tensors.end(), same_name)) return;
    plan_.tables.push_back({add_tensor(name, DType::kF32, std::move(shape)), std::move(values)});
  }

  std::size_t add_tensor(const std::string& name, DType dtype, std::vector<std::int64_t> shape) {
    plan_.tensors.push_back({name, dtype, std::move(shape)});
    return plan_.tensors.size() - 1;
  }

  KvPlan plan_;
  std::map<std::string, std::shared_ptr<const CacheCodec>> codecs_;
};

}  // namespace

KvPlan plan_kv(const KvDump& dump, const KvSchemeOptions& options) { return KvPlanner().make(dump, options); }

}  // namespace tq
