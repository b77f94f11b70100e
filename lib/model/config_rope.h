// The part of config.json that describes rotary embeddings, in the form of transformers 5
// (rope_parameters, flat or one a layer type) and of older files (rope_theta, rope_scaling,
// partial_rotary_factor, rope_local_base_freq).
#pragma once

#include <vector>

#include "lib/model/config.h"
#include "lib/model/config_reader.h"

namespace tq {

/// One entry, or two where sliding layers turn otherwise than the rest. `model` has its family,
/// head_dim and mla already. Error: a scaling that tq does not have, or one without a number that
/// it needs.
std::vector<RopeConfig> read_ropes(const ConfigReader& in, const ModelConfig& model);

/// The longest prompt: max_position_embeddings, or more where a scaling promises more.
std::int64_t longest_prompt(const RopeConfig& rope);

/// DeepSeek's yarn puts a factor on the attention scale: (0.1 mscale_all_dim ln(factor) + 1)^2.
double mla_scale_factor(const RopeConfig& rope);

}  // namespace tq
