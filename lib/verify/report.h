// What verify found, as plain numbers: filled by measure_kv.cpp, judged by gates.cpp, printed by report_json.cpp and the
// command line. NaN stands for "not measured".
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/measure/token_stats.h"
#include "lib/scheme.h"

namespace tq {

/// What is put in the place of the reconstruction to see whether a gate notices.
enum class Control {
  kZeros,      ///< all zeros; its cosine is 0 by definition
  kOtherSeed,  ///< the right codes, decoded with the rotation of another seed (not for the identity)
  kPermuted,   ///< the tokens of each head in another order (16 tokens or more)
  kOneBit,     ///< the same rows at 1 bit (schemes of 2 bits or more)
};
inline constexpr int kControls = 4;
std::string_view name_of(Control control);

/// Other sign seeds under which the same rows are measured: one fixed rotation of one tensor is a single draw of what
/// Theorem 1 bounds in expectation.
inline constexpr int kOtherSeeds = 8;

struct ControlNumbers {
  double cosine_flattened;
  double cosine_min;
  double relative_mse;
};

/// K or V of a layer, or of one head. Every metric's formula: lib/measure/error_stats.h.
struct PartNumbers {
  int bits = 0;             ///< of a code; of rows that are kept exactly 16
  double average_bits = 0;  ///< of a code, over the channels: of 32 channels at 3 bits and 96 at 2, 2.25
  int dim = 0;
  double distortion = 0;  ///< D of the codebook in use, under the norm mode; NaN where no codebook is
  double codebook_bound = 0;  ///< D over Theorem 1's bound, of rows and outliers the worse; NaN where no codebook is
  double ideal_cosine = 0;  ///< sqrt(1 - D), D of raw norms: what rows uniform on the sphere have, whatever the norm
  double expected_mse = 0;  ///< relative MSE that theory expects of these rows: D |what is coded|^2 / |x|^2, so D of plain rows
  std::int64_t rows = 0;
  double relative_mse = 0;
  double mse_ratio = 0;  ///< relative_mse / expected_mse
  double other_seeds_mean = 0, other_seeds_min = 0, other_seeds_max = 0;  ///< mse_ratio under the other seeds
  double bound_ratio = 0;  ///< relative_mse over Theorem 1's bound
  double bits_lost = 0;    ///< 0.5 log2(relative_mse 4^average_bits)
  double cosine_flattened = 0, cosine_mean = 0, cosine_p1 = 0, cosine_min = 0;
  double norm_bias = 0;
  double qjl_slope = std::numeric_limits<double>::quiet_NaN();  ///< sum <r, r_hat> / sum |r|^2, r the residual and r_hat
                                                                ///< its sketch: 1 where inner products are unbiased
  double qjl_slope_other_seed = std::numeric_limits<double>::quiet_NaN();  ///< the same with another sketch matrix: near 0
  std::int64_t worst_row = -1;  ///< of cosine_min: head * tokens + token (of one head: token)
  std::array<std::optional<ControlNumbers>, kControls> controls;
};

/// Formulas: lib/measure/attention_stats.h.
struct AttentionNumbers {
  std::int64_t queries = 0;
  double logit_rmse = 0, kl_mean = 0, kl_p99 = 0, kl_max = 0, top1_agreement = 0;
  double output_relative_error = 0, output_cosine_mean = 0;
};

/// What would make the keys cheaper to code: the error energy sum |k - k_hat|^2 with a remedy over that without, measured
/// by coding the same rows again. 0.25 is worth one bit.
struct KeyRemedies {
  double center = 1;    ///< the mean over tokens subtracted first, and kept beside the codes
  double channels = 1;  ///< the `kept_channels` loudest channels kept in 16 bits, the rest coded
  double one_bit = 1;   ///< one bit more (1 where the codes have 8 bits already)
  int kept_channels = 0;
};

/// The head that is worst in each respect.
struct KeyHealthNumbers {
  double mean_energy_share = 0;
  std::int64_t mean_head = 0;
  double channel_rms_ratio = 0;
  std::int64_t channel_head = 0;
  int channel = 0;
  KeyRemedies remedies;
};

struct Measurement {
  PartNumbers k, v;
  std::optional<AttentionNumbers> attention;
  std::array<std::optional<AttentionNumbers>, kControls> k_control_attention;
  KeyHealthNumbers health;
};

struct LayerReport {
  int index = 0;
  std::int64_t kv_heads = 0;
  std::int64_t tokens = 0;
  std::int64_t query_heads = 0;
  double attention_scale = 0;
  std::optional<double> softcap;
  std::optional<std::int64_t> window;  ///< tokens that a query sees; nothing: all up to its own
  bool sinks = false;                  ///< each softmax has a logit more, without a value
  Measurement all;                 ///< over all heads
  std::vector<Measurement> heads;  ///< one a head
};

enum class Verdict { kPass, kFail, kNotMeasured };
std::string_view name_of(Verdict verdict);  ///< "PASS", "FAIL", "NOT_MEASURED"

/// A gate's value with one control in the place of K or of V, in the layer that notices it least.
struct GateControl {
  char part = 'k';  ///< 'k', 'v'; of a gate on the model's output 'b', K and V both, or 'w', the weights
  Control control = Control::kZeros;
  double value = 0;
  bool passed = false;  ///< true: the gate did not notice
};

struct GateReport {
  std::string name;     ///< the option without its dashes, such as "threshold", or the check that is always made
  bool at_least = true; ///< passes where value >= limit, else where value <= limit
  double limit = 0;
  double value = 0;     ///< the worst over layers, and over K and V where both are concerned; the estimate, of a gate on the
                        ///< model's output
  std::optional<double> bound;  ///< of a gate on the model's output: the bad side's end of the 95 % interval, which must pass;
                                ///< of its controls not even the estimate may
  int worst_layer = 0;  ///< with a bound, there is no worst layer, and no part
  char worst_part = ' ';
  bool measured = true;   ///< false: there was nothing to measure, such as queries that all see one key
  bool passed = false;
  bool sensitive = true;  ///< no control passes it
  std::vector<GateControl> controls;
};

/// Greedy decoding, of an end-of-text token as of any other.
struct GreedyNumbers {
  std::int64_t tokens = 0;  ///< that the reference generated
  /// Position, from 0, of the first token that greedy decoding with the change would have chosen otherwise; nothing: of
  /// these tokens, none. Up to there both have read the same tokens, so one teacher-forced pass over the reference's tokens
  /// finds it exactly; what would follow it is another text, and not compared.
  std::optional<std::int64_t> first_divergence;
};

struct EffectNumbers {
  TokenSummary tokens;
  std::optional<GreedyNumbers> greedy;
  double seconds = 0;  ///< wall time of the pass and the comparison
};

/// What the compressed cache, packed weights, or both do to the model's output.
struct EffectReport {
  EffectNumbers numbers;
  bool cache = false;        ///< K and V were read from the compressed cache
  std::string weights;       ///< directory of the packed weights; empty: the model's own
  std::uint64_t weight_bytes = 0, reference_weight_bytes = 0;  ///< of the tensors that the model has; 0 without weights
  double reference_seconds = 0;
};

/// What was run where the source is a model.
struct ModelNumbers {
  std::string name;        ///< the last part of the directory's path, or the hub id
  std::string family;      ///< model_type
  std::int64_t layers = 0;
  std::vector<int> exact_layers;  ///< layers whose K and V are kept in 16 bits, every head: their errors are of rounding
  bool latent = false;     ///< multi-head latent attention, measured as it is cached
  std::string prompt;      ///< where the text comes from
  std::int64_t tokens = 0;       ///< of all windows
  std::int64_t windows = 0;      ///< pieces of the text, each read from position 0
  std::int64_t window = 0;       ///< tokens of one, at most
  std::int64_t stride = 0;       ///< tokens of text from one to the next; special tokens make up the rest
  std::int64_t tokens_available = 0;  ///< of the text, before it was cut
  std::int64_t predictions = 0;
  double perplexity = 0;   ///< of the model itself, nothing compressed
  double max_perplexity = 0;
  bool plausible = false;  ///< perplexity and predictions are within their limits
};

/// A scheme and where it is used.
struct SchemeUse {
  char part = 'k';
  std::string scheme;       ///< its text
  std::vector<int> layers;  ///< ascending
};

struct VerifyReport {
  std::string source_kind;  ///< "kv", "packed", "synthetic" or "model"
  std::string source_path;
  std::string packed_path;  ///< of "packed"
  std::string model;        ///< as the dump names it, else the path
  std::optional<ModelNumbers> model_numbers;  ///< of "model"
  std::optional<EffectReport> effect;         ///< of "model"
  std::string backend;
  double k_bits = 0, v_bits = 0;   ///< of a value, over all: CacheScheme::value_bits(), so the bit of a sketch included
  std::vector<SchemeUse> schemes;  ///< K and V, in the order of the layers
  std::vector<LayerReport> layers;  ///< none where only weights were exchanged: then what is said of K, V and codes is void
  double threshold = 0;
  bool threshold_is_default = false;
  std::vector<GateReport> gates;
  std::vector<std::string> warnings;
  std::vector<std::string> advice;  ///< what would help the keys; only when a gate failed
  std::uint64_t dump_bytes = 0;    ///< K and V as they came, or 16-bit values for synthetic rows
  std::uint64_t packed_bytes = 0;  ///< codes and norms
  Verdict verdict = Verdict::kNotMeasured;
};

}  // namespace tq
