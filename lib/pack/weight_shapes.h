// The shapes that a native TQ3 checkpoint of the published converter does not tell. It stores rows and groups, so how much
// of the last group is padding, and how rows fold into experts, has to come from the model's config.json.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/io/tq3_checkpoint.h"

namespace tq {

/// What config.json says of the lengths of rows; 0: nothing. The language model's where it is nested ("text_config").
struct ModelDimensions {
  std::int64_t hidden = 0;
  std::int64_t attention = 0;            ///< heads * head_dim: what o_proj reads
  std::int64_t intermediate = 0;
  std::int64_t expert_intermediate = 0;  ///< of a routed expert; `intermediate` where there is no number of its own
  std::int64_t shared_intermediate = 0;
  std::int64_t experts = 0;
  std::vector<std::int64_t> others;      ///< lengths without a role here: of a vision tower, of low-rank projections
};

/// Of DIR/config.json. All 0 if the file is not there; Error if it is no JSON object.
ModelDimensions read_model_dimensions(const std::string& dir);

/// The shape of a quantized tensor: rows are unpadded, and a fused tensor of experts (no .weight in its name) is
/// [experts, rows, in_dim]. Where the name tells the role (q_proj, o_proj, down_proj and their like), the role's length must
/// fit the stored groups; else the first length of config.json that does. Error, with `path` and tensor, if none fits: tq's
/// own checkpoints carry their shapes.
std::vector<std::int64_t> restore_shape(const Tq3Tensor& tensor, const ModelDimensions& dimensions, const std::string& path);

/// rows [count][groups * group_size] as decoded: Error unless what follows in_dim looks like padding, which holds the error
/// of zeros alone (at most a quarter of the energy that values have there), and what stands before it does not.
void check_padding(const std::vector<float>& rows, std::int64_t count, std::int64_t in_dim, const Tq3Tensor& tensor,
                   const std::string& path);

}  // namespace tq
