// What quantizing a model's weights cost, tensor by tensor: a native TQ3 checkpoint is read again, beside the model that it
// was made from.
//
// Two controls stand in the place of the reconstruction: zeros, whose relative MSE is 1, and the same codes decoded with the
// rotation of another seed, which is about 2. A gate that a control passes measures nothing.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "lib/measure/error_stats.h"
#include "lib/pack/weight_reader.h"
#include "lib/verify/report.h"
#include "lib/verify/weight_gates.h"

namespace tq {

struct VerifyWeightsOptions {
  WeightGateOptions gates;
  int threads = 1;
  Progress progress;  ///< gets values
};

enum class KeptState {
  kQuantized,  ///< the tensor is not kept
  kEqual,      ///< the source's bytes
  kRounded,    ///< the source's values, rounded to the stored type
  kDifferent,
};
std::string_view name_of(KeptState state);  ///< "quantized", "equal", "rounded", "different"

/// Groups whose codes change when they are decoded, rounded to BF16 and quantized again to nearest levels. The published vLLM
/// loader does so, with whole groups; one that ends in padding is first cut to its row and padded with zeros again, as a
/// tool does that packs an unpacked model.
struct GroupCounts {
  std::int64_t whole = 0, whole_changed = 0;
  std::int64_t padded = 0, padded_changed = 0;

  void add(const GroupCounts& other);
};

/// One tensor. Formulas: lib/measure/error_stats.h; a quantized row is one of the last dimension. NaN: not measured.
struct WeightTensorReport {
  static constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

  std::string name;
  std::vector<std::int64_t> shape;
  int bits = 0;        ///< 0: kept
  DType source_dtype{};
  DType stored_dtype{};  ///< of a kept tensor; U8 of a quantized one
  std::uint64_t source_bytes = 0;
  std::uint64_t stored_bytes = 0;
  KeptState state = KeptState::kQuantized;
  double max_abs_error = 0;   ///< NaN for a kept tensor that is no float
  double relative_mse = kNone;
  double distortion = kNone;  ///< D of the codebook in use; quantized tensors only, as all that follows
  double mse_ratio = kNone;   ///< relative_mse / D
  double cosine = kNone;      ///< over the whole tensor
  double cosine_min = kNone;
  std::int64_t worst_row = -1;  ///< of cosine_min; row of [product of the other dimensions][in_dim]
  double norm_bias = kNone;
  double other_seed_mse = kNone;  ///< relative MSE of the second control, over an eighth of the rows; NaN for zeros
  GroupCounts groups;         ///< of a quantized tensor
  bool is_zero = false;           ///< every value of the source is 0: controls cannot be caught
};

struct WeightGateReport {
  std::string name;   ///< "kept", "other-seed", "max-rel-mse" or "max-rel-mse-ratio"
  double limit = 0;   ///< passes where value <= limit
  double value = 0;   ///< the worst over the tensors
  std::string worst;  ///< the tensor with that value; empty if there is none
  bool passed = true;
  bool sensitive = true;  ///< no control passes it in any tensor
};

struct VerifyWeightsReport {
  std::string packed_dir, source_dir, backend;
  bool hashes_checked = false;
  std::vector<WeightTensorReport> tensors;  ///< in the order of the TQ3 files
  std::vector<WeightGateReport> gates;
  std::uint64_t source_bytes = 0, stored_bytes = 0;  ///< of tensors
  std::int64_t quantized_values = 0;
  GroupCounts groups;                               ///< of all quantized tensors
  double relative_mse = WeightTensorReport::kNone;  ///< sum of squared errors over sum of squares of all quantized tensors
  Verdict verdict = Verdict::kNotMeasured;
};

/// Compares. `packed` and `other` are the same TQ3 directory, the second opened with another seed. Two gates are always on:
/// "kept", that every kept tensor is the source's, rounded to the stored type (value: how many are not); and "other-seed",
/// that the relative MSE of each quantized tensor is at most half of that under the other seed (value: the quotient).
/// Error: the two do not have the same tensors with the same shapes, damaged input, a source value that is NaN or infinite.
VerifyWeightsReport verify_weights(const WeightReader& packed, const WeightReader& other, const WeightReader& source,
                                   const VerifyWeightsOptions& options);

/// Values that verify_weights() will report to its progress.
std::uint64_t count_values(const WeightReader& reader);

/// docs/verify-weights.schema.json describes it.
std::string format_weights_report_json(const VerifyWeightsReport& report, int exit_code);

}  // namespace tq
