#include "lib/pack/weight_shapes.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "lib/error.h"
#include "lib/io/config_text.h"

namespace tq {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kMostLength = std::int64_t{1} << 40;

/// The first of the keys that is a length, or 0.
std::int64_t find_length(const Json& json, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_number_unsigned()) continue;
    const auto value = found->get<std::uint64_t>();
    if (value > 0 && value <= static_cast<std::uint64_t>(kMostLength)) return static_cast<std::int64_t>(value);
  }
  return 0;
}

[[noreturn]] void refuse(const std::string& path, const Tq3Tensor& tensor, const std::string& what) {
  throw Error(fmt::format("{}: tensor {}: {}; this checkpoint does not tell shapes (those of 'tq pack-weights' do), so its "
                          "config.json must",
                          path, quote_name(tensor.name), what));
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

bool contains_any(const std::string& text, std::initializer_list<const char*> parts) {
  return std::any_of(parts.begin(), parts.end(), [&](const char* part) { return contains(text, part); });
}

/// What rows of a tensor of that name are as long as; 0: the name does not tell, or config.json does not.
std::int64_t length_of_role(const std::string& name, const ModelDimensions& d) {
  if (contains_any(name, {"vision", "visual", "audio"})) return 0;
  if (contains_any(name, {"o_proj", "out_proj"})) return d.attention;
  if (contains_any(name, {"down_proj", "fc2", ".w2."})) {
    if (contains(name, "shared_expert")) return d.shared_intermediate;
    return contains(name, "expert") ? d.expert_intermediate : d.intermediate;
  }
  const bool hidden = contains_any(name, {"q_proj", "k_proj", "v_proj", "qkv_proj", "gate_proj", "up_proj", "mlp.gate.", "fc1",
                                          ".w1.", ".w3.", "block_sparse_moe.gate."});
  return hidden ? d.hidden : 0;
}

bool is_fused(const std::string& name) { return contains(name, "expert") && !name.ends_with(".weight"); }

}  // namespace

ModelDimensions read_model_dimensions(const std::string& dir) {
  const std::string path = (std::filesystem::path(dir) / kModelConfigName).string();
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return {};
  Json json = Json::parse(without_non_finite(read_text_file(path)).json, nullptr, false);
  if (!json.is_object()) throw Error(fmt::format("{}: is not a JSON object; get the file again", path));
  ModelDimensions d;
  for (const auto& [key, section] : json.items()) {
    if (!section.is_object() || !key.ends_with("_config")) continue;
    for (const char* length : {"hidden_size", "intermediate_size", "embed_dim"}) {
      if (const std::int64_t other = find_length(section, {length})) d.others.push_back(other);
    }
  }
  if (json.contains("text_config") && json["text_config"].is_object()) json = Json(json["text_config"]);
  for (const char* rank : {"q_lora_rank", "kv_lora_rank"}) {
    if (const std::int64_t other = find_length(json, {rank})) d.others.push_back(other);
  }
  d.hidden = find_length(json, {"hidden_size", "n_embd", "d_model"});
  const std::int64_t heads = find_length(json, {"num_attention_heads", "n_head"});
  const std::int64_t head_dim = find_length(json, {"v_head_dim", "head_dim"});
  d.attention = heads == 0 || head_dim == 0 || heads > kMostLength / head_dim ? d.hidden : heads * head_dim;
  d.intermediate = find_length(json, {"intermediate_size", "ffn_dim", "n_inner"});
  d.expert_intermediate = find_length(json, {"moe_intermediate_size", "expert_intermediate_size", "intermediate_size"});
  d.shared_intermediate = find_length(json, {"shared_expert_intermediate_size", "moe_intermediate_size", "intermediate_size"});
  d.experts = find_length(json, {"num_experts", "num_local_experts", "n_routed_experts"});
  return d;
}

std::vector<std::int64_t> restore_shape(const Tq3Tensor& tensor, const ModelDimensions& d, const std::string& path) {
  const std::int64_t group_size = tensor.codec->scheme().dim;
  const std::int64_t padded = tensor.groups * group_size;
  const auto fits = [&](std::int64_t length) { return length > padded - group_size && length <= padded; };
  std::int64_t length = length_of_role(tensor.name, d);
  if (length == 0) {
    std::vector<std::int64_t> all = {d.hidden, d.attention, d.intermediate, d.expert_intermediate, d.shared_intermediate};
    all.insert(all.end(), d.others.begin(), d.others.end());
    if (const auto found = std::find_if(all.begin(), all.end(), fits); found != all.end()) length = *found;
  }
  if (!fits(length)) {
    refuse(path, tensor, fmt::format("its rows have {} groups of {}, and {} in config.json", tensor.groups, group_size,
                                     length == 0 ? "no length that fits is" : fmt::format("their length is {}", length)));
  }
  if (!is_fused(tensor.name)) return {tensor.rows, length};
  if (d.experts == 0 || tensor.rows % d.experts != 0) {
    refuse(path, tensor, fmt::format("it holds {} rows of experts, and config.json says {} experts", tensor.rows, d.experts));
  }
  return {d.experts, tensor.rows / d.experts, length};
}

void check_padding(const std::vector<float>& rows, std::int64_t count, std::int64_t in_dim, const Tq3Tensor& tensor,
                   const std::string& path) {
  const std::int64_t group_size = tensor.codec->scheme().dim;
  const std::int64_t padded = tensor.groups * group_size;
  const auto mean_square = [&](std::int64_t first, std::int64_t end) {
    double sum = 0;
    for (std::int64_t row = 0; row < count; ++row) {
      for (std::int64_t i = first; i < end; ++i) {
        const double value = rows[static_cast<std::size_t>(row * padded + i)];
        sum += value * value;
      }
    }
    return sum / static_cast<double>(count * (end - first));
  };
  const std::int64_t start = padded - group_size;  // of the last group, in which the padding is
  const double inside = mean_square(start, in_dim);
  const double edge = mean_square(std::max(start, in_dim - 8), in_dim);
  const double outside = mean_square(in_dim, padded);
  if (inside == 0 && outside == 0) return;
  if (outside <= 0.25 * inside && outside < 0.5 * edge) return;
  refuse(path, tensor, fmt::format("config.json makes its rows {} values long, and what lies behind them is not padding",
                                   in_dim));
}

}  // namespace tq
