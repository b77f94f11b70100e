// Which tensors of a checkpoint a model is made of: every matrix, norm and bias of every layer,
// found by name and proved to have the shape that config.json promises, before one is read. Or, without
// a checkpoint, which tensors that configuration promises.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/model/config.h"
#include "lib/pack/weight_reader.h"

namespace tq {

using WeightTensor = WeightReader::Tensor;

/// A linear map of `in` values to `out`: rows first_row .. first_row + out - 1 of the tensor (its
/// rows: all dimensions but the last, flattened); or, transposed, its rows are the inputs. Without
/// a tensor there is none.
struct Matrix {
  const WeightTensor* tensor = nullptr;
  std::int64_t first_row = 0;
  std::int64_t out = 0;
  std::int64_t in = 0;
  bool transposed = false;
  const WeightTensor* bias = nullptr;
  std::int64_t bias_row = 0;    ///< of the bias tensor, and
  std::int64_t bias_first = 0;  ///< the place in that row where this matrix's biases begin

  explicit operator bool() const { return tensor != nullptr; }
};

struct Norm {
  NormKind kind = NormKind::kRms;
  const WeightTensor* weight = nullptr;
  const WeightTensor* bias = nullptr;
  double eps = 0;

  explicit operator bool() const { return weight != nullptr; }
};

/// gate is absent in a plain MLP; fused stands for gate and up in turns (gpt-oss).
struct MlpLayout {
  Matrix gate, up, down;
  Matrix fused;
};

struct MoeLayout {
  Matrix router;
  const WeightTensor* correction = nullptr;  ///< added to a score for choosing only
  std::vector<MlpLayout> experts;
  std::optional<MlpLayout> shared;
  Matrix shared_gate;
};

struct AttentionLayout {
  Matrix q, k, v, o;
  std::vector<Norm> q_norm, k_norm;  ///< none, one for all heads (or over all at once), or one a head
  const WeightTensor* sinks = nullptr;
  // Multi-head latent attention has these in the place of k and v, and of q where q_a is there.
  Matrix q_a, kv_a, kv_b;
  Norm q_a_norm, kv_a_norm;
};

struct LayerLayout {
  Norm before_attention, after_attention, before_mlp, after_mlp;
  AttentionLayout attention;
  MlpLayout mlp;                 ///< of a dense layer
  std::optional<MoeLayout> moe;  ///< of a sparse one
};

struct ModelLayout {
  const WeightTensor* embedding = nullptr;  ///< [vocab, hidden]
  std::vector<LayerLayout> layers;
  Norm final_norm;
  Matrix head;                      ///< the embedding where the two are tied
  bool tied = false;
  std::uint64_t layer_bytes = 0;    ///< stored bytes that one pass over all layers may read
};

/// Error, with directory and tensor: a tensor is missing, has another shape than config.json says,
/// or is of a type that tq does not multiply (8-bit or 4-bit floats, integers); a tensor of one of
/// these layers that no part of the model reads, unless it is a table that can be computed (rotary
/// frequencies, causal masks). `reader` must outlive the result.
ModelLayout plan_layout(const ModelConfig& config, const WeightReader& reader, const std::string& dir);

/// A tensor by name and shape alone.
struct TensorShape {
  std::string name;
  std::vector<std::int64_t> shape;
};

/// The most tensors that list_tensors() lists: DeepSeek-V3 has 46 thousand.
inline constexpr std::size_t kMostListedTensors = std::size_t{1} << 20;

/// Every tensor that a checkpoint of that configuration has for plan_layout() to find, from config.json alone: experts one by
/// one where the family's published checkpoints have them so, the output head where config.json says that it is not tied.
/// Neither vision towers nor predictors of further tokens. Error for more than kMostListedTensors.
std::vector<TensorShape> list_tensors(const ModelConfig& config);

}  // namespace tq
