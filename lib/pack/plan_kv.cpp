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
    for (const KvLayer& layer : dump.layers()) {
      add_item(fmt::format("k.{}", layer.index), layer.k, options.key_scheme(layer.k.head_dim));
      add_item(fmt::format("v.{}", layer.index), layer.v, options.value_scheme(layer.v.head_dim));
    }
    // Tables, norms, codes: so every F32 and F16 tensor starts at a multiple of its element.
    for (KvPlanItem& item : plan_.items) add_norms(item);
    for (KvPlanItem& item : plan_.items) add_codes(item);
    for (const TensorSpec& tensor : plan_.tensors) plan_.metadata.emplace_back(hash_key(tensor.name), kHashPlaceholder);
    for (const auto& [key, value] : dump.metadata()) plan_.metadata.emplace_back("dump." + key, value);
    // From here on every offset is fixed.
    plan_.total_bytes = SafetensorsWriter(plan_.tensors, plan_.metadata).total_bytes();
    return std::move(plan_);
  }

 private:
  void add_item(const std::string& name, const KvTensor& source, const Scheme& scheme) {
    KvPlanItem item{name, &source, find_codec(scheme)};
    plan_.metadata.emplace_back(scheme_key(name), format_scheme(scheme));
    plan_.metadata.emplace_back(source_key(name), format_source(source.info));
    plan_.input_bytes += source.info.bytes;
    plan_.items.push_back(std::move(item));
  }

  void add_norms(KvPlanItem& item) {
    const Scheme& scheme = item.codec->scheme();
    const std::vector<std::int64_t> shape = {item.source->heads, item.source->tokens};
    item.norms = add_tensor(item.name + ".norms", scheme.norm_dtype, shape);
    if (scheme.qjl) item.residual_norms = add_tensor(item.name + ".residual_norms", scheme.norm_dtype, shape);
  }

  void add_codes(KvPlanItem& item) {
    const Scheme& scheme = item.codec->scheme();
    const std::int64_t heads = item.source->heads;
    const std::int64_t tokens = item.source->tokens;
    item.codes = add_tensor(item.name + ".codes", DType::kU8, {heads, tokens, scheme.code_bytes()});
    if (scheme.qjl) item.signs = add_tensor(item.name + ".signs", DType::kU8, {heads, tokens, scheme.sign_bytes()});
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
    if (scheme.qjl) add_table(sketch_tensor(scheme), {scheme.dim, scheme.dim}, codec->sketch_matrix());
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

Scheme KvSchemeOptions::key_scheme(int dim) const {
  constexpr std::uint32_t kSketchSeedOffset = 1000;  // as the published systems: seed 42 and 1042
  if (qjl_keys && k_bits < 2) {
    throw UsageError("--qjl-keys takes one bit of K for the sketch: K needs at least 2 bits");
  }
  Scheme scheme = default_scheme(qjl_keys ? k_bits - 1 : k_bits, dim, rotation, k_seed);
  scheme.norm = norm;
  scheme.norm_dtype = norm_dtype;
  if (qjl_keys) scheme.qjl = k_seed + kSketchSeedOffset;
  return scheme;
}

Scheme KvSchemeOptions::value_scheme(int dim) const {
  Scheme scheme = default_scheme(v_bits, dim, rotation, v_seed);
  scheme.norm = norm;
  scheme.norm_dtype = norm_dtype;
  return scheme;
}

KvPlan plan_kv(const KvDump& dump, const KvSchemeOptions& options) { return KvPlanner().make(dump, options); }

}  // namespace tq
