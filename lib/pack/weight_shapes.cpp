#include "lib/pack/weight_shapes.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "lib/error.h"

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

/// What rows of a tensor of that name are as long as, in most models.
std::int64_t length_of_role(const std::string& name, const ModelDimensions& d) {
  if (contains(name, "o_proj") || contains(name, "out_proj") || contains(name, "attention.dense")) return d.attention;
  const bool down = contains(name, "down_proj") || contains(name, "fc2") || contains(name, ".w2") || contains(name, "4h_to_h");
  if (!down) return d.hidden;
  if (contains(name, "shared_expert")) return d.shared_intermediate;
  return contains(name, "expert") ? d.expert_intermediate : d.intermediate;
}

bool is_fused(const std::string& name) { return contains(name, "expert") && !name.ends_with(".weight"); }

}  // namespace

ModelDimensions read_model_dimensions(const std::string& dir) {
  const std::string path = (std::filesystem::path(dir) / kModelConfigName).string();
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return {};
  Json json = Json::parse(read_text_file(path), nullptr, false);
  if (!json.is_object()) throw Error(fmt::format("{}: is not a JSON object; get the file again", path));
  if (json.contains("text_config") && json["text_config"].is_object()) json = Json(json["text_config"]);
  ModelDimensions d;
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
  if (!fits(length)) {
    const std::int64_t all[] = {d.hidden, d.attention, d.intermediate, d.expert_intermediate, d.shared_intermediate};
    const auto found = std::find_if(std::begin(all), std::end(all), fits);
    if (found == std::end(all)) {
      refuse(path, tensor, fmt::format("its rows have {} groups of {}, and no length in config.json fits", tensor.groups,
                                       group_size));
    }
    length = *found;
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
  if (outside <= 0.25 * inside && outside <= 0.5 * edge) return;
  if (inside == 0 && outside == 0) return;
  refuse(path, tensor, fmt::format("config.json makes its rows {} values long, and what lies behind them is not padding",
                                   in_dim));
}

}  // namespace tq
