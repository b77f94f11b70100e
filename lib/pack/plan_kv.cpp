#include "lib/pack/plan_kv.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

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
  KvPlan make(const KvDump& dump, const KvPackOptions& options) {
    plan_.metadata = {{"format", std::string(kKvFormat)},
                      {"format_version", std::string(kKvFormatVersion)},
                      {std::string(kHeaderHashKey), kHashPlaceholder},
                      {"tool", "tq " TQ_VERSION}};
    for (const KvLayer& layer : dump.layers()) {
      add_item(fmt::format("k.{}", layer.index), layer.k,
               default_scheme(options.k_bits, layer.k.head_dim, options.rotation, options.k_seed));
      add_item(fmt::format("v.{}", layer.index), layer.v,
               default_scheme(options.v_bits, layer.v.head_dim, options.rotation, options.v_seed));
    }
    // Tables, norms, codes: so every F32 tensor starts at a multiple of 4 bytes.
    for (KvPlanItem& item : plan_.items) {
      item.norms = add_tensor(item.name + ".norms", DType::kF32, {item.source->heads, item.source->tokens});
    }
    for (KvPlanItem& item : plan_.items) {
      item.codes = add_tensor(item.name + ".codes", DType::kU8,
                              {item.source->heads, item.source->tokens, item.codec->scheme().code_bytes()});
    }
    for (const TensorSpec& tensor : plan_.tensors) plan_.metadata.emplace_back(hash_key(tensor.name), kHashPlaceholder);
    for (const auto& [key, value] : dump.metadata()) plan_.metadata.emplace_back("dump." + key, value);
    // From here on every offset is fixed.
    plan_.total_bytes = SafetensorsWriter(plan_.tensors, plan_.metadata).total_bytes();
    return std::move(plan_);
  }

 private:
  void add_item(const std::string& name, const KvTensor& source, const Scheme& scheme) {
    KvPlanItem item{name, &source, find_codec(scheme), 0, 0};
    plan_.metadata.emplace_back(scheme_key(name), format_scheme(scheme));
    plan_.metadata.emplace_back(source_key(name), format_source(source.info));
    plan_.input_bytes += source.info.bytes;
    plan_.items.push_back(std::move(item));
  }

  /// The codec of a scheme; its tables join the plan when it is first seen.
  std::shared_ptr<const Codec> find_codec(const Scheme& scheme) {
    std::shared_ptr<const Codec>& codec = codecs_[format_scheme(scheme)];
    if (codec != nullptr) return codec;
    codec = std::make_shared<const Codec>(scheme);
    const Codebook& book = codec->codebook();
    add_table(codebook_tensor(scheme), {1 << book.bits}, {book.levels, book.levels + (1 << book.bits)});
    const std::int64_t order = codec->rotation().matrix_order();
    if (order > 0) add_table(rotation_tensor(scheme), {order, order}, codec->rotation().matrix());
    return codec;
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
  std::map<std::string, std::shared_ptr<const Codec>> codecs_;
};

}  // namespace

KvPlan plan_kv(const KvDump& dump, const KvPackOptions& options) { return KvPlanner().make(dump, options); }

}  // namespace tq
