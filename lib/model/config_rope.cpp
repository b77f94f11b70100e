#include "lib/model/config_rope.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace tq {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kMostTokens = std::int64_t{1} << 31;

RopeKind read_kind(const ConfigReader& rope, const Family& family) {
  std::string name = rope.text("rope_type").value_or(rope.text("type").value_or("default"));
  if (family.model_type == "phi3" && (name == "su" || name == "yarn")) name = "longrope";  // its older names
  if (name == "default") return RopeKind::kDefault;
  if (name == "linear") return RopeKind::kLinear;
  if (name == "dynamic") return RopeKind::kDynamic;
  if (name == "yarn") return RopeKind::kYarn;
  if (name == "longrope") return RopeKind::kLongRope;
  if (name == "llama3") return RopeKind::kLlama3;
  rope.fail("rope_type", fmt::format("'{}' is a RoPE scaling that tq does not have; it has default, linear, dynamic, yarn, "
                                     "longrope, llama3", name));
}

double require(const ConfigReader& rope, std::string_view key) {
  const std::optional<double> value = rope.positive(key);
  if (!value) rope.fail(key, "is missing, and this RoPE scaling needs it");
  return *value;
}

/// Tokens before scaling: Phi-3 states them beside the scaling, others within.
std::int64_t original_context(const ConfigReader& in, const ConfigReader& rope, std::int64_t context) {
  constexpr std::string_view kKey = "original_max_position_embeddings";
  if (in.has(kKey)) return in.size(kKey, kMostTokens);
  return rope.size_or(kKey, kMostTokens, context);
}

void read_scaling(const ConfigReader& in, const ConfigReader& rope, RopeConfig& out) {
  out.attention_factor = rope.positive("attention_factor");
  switch (out.kind) {
    case RopeKind::kDefault: return;
    case RopeKind::kLinear:
    case RopeKind::kDynamic: out.factor = require(rope, "factor"); return;
    case RopeKind::kYarn:
      out.original_context = original_context(in, rope, out.context);
      out.factor = rope.positive("factor").value_or(static_cast<double>(out.context) /
                                                    static_cast<double>(out.original_context));
      out.mscale = rope.number("mscale");
      out.mscale_all_dim = rope.number("mscale_all_dim");
      out.beta_fast = rope.positive("beta_fast").value_or(32.0);
      out.beta_slow = rope.positive("beta_slow").value_or(1.0);
      out.truncate = rope.flag("truncate").value_or(true);
      return;
    case RopeKind::kLongRope:
      out.original_context = original_context(in, rope, out.context);
      out.factor = rope.positive("factor").value_or(static_cast<double>(out.context) /
                                                    static_cast<double>(out.original_context));
      out.short_factor = rope.numbers("short_factor");
      out.long_factor = rope.numbers("long_factor");
      for (const auto& [key, list] : {std::pair("short_factor", &out.short_factor), std::pair("long_factor", &out.long_factor)}) {
        if (static_cast<int>(list->size()) != out.dims / 2) {
          rope.fail(key, fmt::format("has {} factors; {} are needed", list->size(), out.dims / 2));
        }
        if (std::any_of(list->begin(), list->end(), [](double f) { return !(f > 0); })) rope.fail(key, "must be above 0");
      }
      return;
    case RopeKind::kLlama3:
      out.original_context = original_context(in, rope, out.context);
      out.factor = require(rope, "factor");
      out.low_freq_factor = require(rope, "low_freq_factor");
      out.high_freq_factor = require(rope, "high_freq_factor");
      if (!(out.high_freq_factor > out.low_freq_factor)) rope.fail("high_freq_factor", "must be above low_freq_factor");
      return;
  }
}

/// The share of a head that turns. Families without partial rotary ignore the key with default RoPE; with a scaling their
/// published code cannot run.
double read_rotary_share(const ConfigReader& in, const ConfigReader& rope, const Family& family, RopeKind kind) {
  constexpr std::string_view kKey = "partial_rotary_factor";
  const double missing = in.names(kKey) ? 1.0 : in.positive("rotary_pct").value_or(family.rotary_share);
  const double share = rope.positive(kKey).value_or(in.positive(kKey).value_or(missing));
  if (share > 1) rope.fail(kKey, "must be at most 1");
  if (family.partial_rotary || share == 1) return share;
  if (kind != RopeKind::kDefault) rope.fail(kKey, fmt::format("{} with a RoPE scaling turns whole heads", family.model_type));
  return 1.0;
}

RopeConfig read_rope(const ConfigReader& in, const Json& json, const std::string& place, double theta, const ModelConfig& model) {
  const ConfigReader rope(json, in.path(), place);
  const Family& family = *model.family;
  RopeConfig out;
  out.kind = read_kind(rope, family);
  out.context = in.size("max_position_embeddings", kMostTokens);
  out.theta = rope.positive("rope_theta").value_or(theta);
  if (!(out.theta > 1)) rope.fail("rope_theta", "must be above 1");
  const double share = read_rotary_share(in, rope, family, out.kind);
  const std::int64_t whole = model.mla ? model.mla->rope_dim : model.head_dim;
  out.dims = model.mla ? static_cast<int>(whole) : static_cast<int>(static_cast<double>(whole) * share);
  if (out.dims < 2 || out.dims % 2 != 0) {
    rope.fail("partial_rotary_factor", fmt::format("turns {} of {} channels; an even number is needed, 2 or more", out.dims, whole));
  }
  if (out.kind == RopeKind::kDynamic && out.dims < 4) rope.fail("rope_type", "'dynamic' needs 4 channels or more");
  read_scaling(in, rope, out);
  return out;
}

/// A family with two bases: what transformers reads otherwise than it was meant, or drops.
void check_local_rope(const ConfigReader& in, const std::string& key, const Json& given) {
  if (key == "rope_parameters") {
    if (!given.empty() && !given.contains("full_attention") && !given.contains("sliding_attention")) {
      in.fail(key, "must hold full_attention and sliding_attention for this family");
    }
    return;
  }
  if (in.has("rope_parameters")) in.fail(key, "stands beside rope_parameters; keep one of them");
  if (given.contains("type") && !given.contains("rope_type")) {
    in.fail(key + ".type", "is an older name that versions of transformers read differently for this family; write rope_type");
  }
}

const Json& as_object(const ConfigReader& in, std::string_view key, const Json& value) {
  if (!value.is_object()) in.fail(key, "must be an object");
  return value;
}

}  // namespace

std::vector<RopeConfig> read_ropes(const ConfigReader& in, const ModelConfig& model) {
  static const Json kEmpty = Json::object();
  const Json* scaling = in.find("rope_scaling");
  const bool scaled = scaling != nullptr && !scaling->empty();
  const std::string key = scaled ? "rope_scaling" : "rope_parameters";
  const Json* found = in.find(key);
  const Json& given = found == nullptr ? kEmpty : as_object(in, key, *found);
  const double theta = in.positive("rope_theta").value_or(model.family->rope_theta);
  if (model.family->local_rope) check_local_rope(in, key, given);
  const Json* full = ConfigReader(given, in.path()).find("full_attention");
  const Json* local = ConfigReader(given, in.path()).find("sliding_attention");
  if (full == nullptr && local == nullptr) {
    std::vector<RopeConfig> ropes = {read_rope(in, given, key + ".", theta, model)};
    if (model.family->local_rope) {
      ropes.push_back(read_rope(in, kEmpty, {}, in.positive("rope_local_base_freq").value_or(10000.0), model));
    }
    return ropes;
  }
  const double local_theta = model.family->local_rope ? in.positive("rope_local_base_freq").value_or(10000.0) : theta;
  return {read_rope(in, full == nullptr ? kEmpty : as_object(in, key, *full), key + ".full_attention.", theta, model),
          read_rope(in, local == nullptr ? kEmpty : as_object(in, key, *local), key + ".sliding_attention.", local_theta, model)};
}

std::int64_t longest_prompt(const RopeConfig& rope) {
  const auto scaled = [&](std::int64_t tokens) {
    return static_cast<std::int64_t>(std::min(static_cast<double>(tokens) * std::max(rope.factor, 1.0), 2147483648.0));
  };
  switch (rope.kind) {
    case RopeKind::kDefault: return rope.context;
    case RopeKind::kLinear:
    case RopeKind::kDynamic: return std::max(rope.context, scaled(rope.context));
    case RopeKind::kYarn:
    case RopeKind::kLongRope:
    case RopeKind::kLlama3: return std::max(rope.context, scaled(rope.original_context));
  }
  return rope.context;
}

double mla_scale_factor(const RopeConfig& rope) {
  if (rope.kind == RopeKind::kDefault || rope.mscale_all_dim.value_or(0) == 0 || rope.factor <= 1) return 1.0;
  const double mscale = 0.1 * *rope.mscale_all_dim * std::log(rope.factor) + 1.0;
  return mscale * mscale;
}

}  // namespace tq
