// A native TQ3 checkpoint: the directory that turboquant-plus-vllm's converter writes, that its Hugging Face and vLLM
// loaders read, and that 'tq pack-weights' writes. Here: what is in it. docs/weights.md is the description.
//
// A tensor NAME whose rows (along the last dimension, in_dim) are cut into groups of group_size values, the last one padded
// with zeros, is stored as NAME.tq_packed (U8, one line of codes a group) and NAME.tq_norms (F32 [rows, groups a row]).
// Every other tensor is stored as it is, in its own type or as F16.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lib/codec.h"
#include "lib/io/checkpoint.h"

namespace tq {

inline constexpr std::string_view kTq3ConfigName = "tq_config.json";
inline constexpr std::string_view kTq3Format = "tq3_native";
inline constexpr std::string_view kPackedSuffix = ".tq_packed";
inline constexpr std::string_view kNormsSuffix = ".tq_norms";

/// What is wrong with a native TQ3 checkpoint that contradicts itself, and what to do.
inline constexpr std::string_view kDamagedCheckpoint = "the checkpoint is damaged or incomplete: copy it again, or pack it anew";

/// How groups of native TQ3 are coded: the tables "vj-d<group_size>-b<bits>", rht2, corrected F32 norms.
/// bits 2..4, group_size 64, 128 or 256; the published loaders know seed 42 only.
Scheme tq3_scheme(int bits, int group_size, std::uint32_t seed = kDefaultSeed);

/// tq_config.json. What the published converter writes comes first; `by_tq` and what follows is there where tq wrote it,
/// under the key "tq", which the published loaders ignore.
struct Tq3Config {
  int bits = 0;
  int group_size = 0;
  std::uint32_t seed = kDefaultSeed;
  std::string original_model;
  int sensitive_bits = 0;                       ///< 0: all tensors have `bits`
  std::vector<std::string> sensitive_patterns;  ///< a tensor whose name contains one of these has sensitive_bits

  struct Quantized {
    int bits;
    DType dtype;                      ///< of the source
    std::vector<std::int64_t> shape;  ///< of the source
    std::string packed_hash;          ///< XXH64 of the data of NAME.tq_packed, 16 hex digits
    std::string norms_hash;
  };
  struct Kept {
    DType dtype;  ///< of the source; the stored type may be F16 instead
    std::string hash;
  };
  bool by_tq = false;
  std::string tool;                            ///< "tq 0.1.0"
  int effort = 0;                              ///< of pack-weights
  std::string fingerprint;                     ///< of source and options, 16 hex digits
  std::string made_from;                       ///< JSON object: version of tq, options, and size and header hash of each file
  std::map<int, Scheme> schemes;               ///< by bits
  std::map<std::string, Quantized> quantized;  ///< by the source's name
  std::map<std::string, Kept> kept;

  /// Bits of a tensor of that name, by the patterns.
  int bits_of(std::string_view name) const;
  /// The scheme of `bits`: of `schemes`, else tq3_scheme().
  Scheme scheme_of(int bits) const;
};

/// The two JSON texts. parse throws Error that names the field and `where` (the path), also for a key that occurs twice, and
/// for an object "tq" that is not what tq wrote: it carries the XXH64 of itself.
Tq3Config parse_tq3_config(const std::string& text, const std::string& where);
std::string format_tq3_config(const Tq3Config& config);

/// A tensor of the model that the checkpoint stands for.
struct Tq3Tensor {
  std::string name;                 ///< of the source: without suffix
  int bits = 0;                     ///< 0: kept as it is
  DType dtype = DType::kBf16;       ///< of the source, where that is known (by_tq); else as stored, BF16 for quantized ones
  std::vector<std::int64_t> shape;  ///< of the source, where that is known; else [rows, groups * group_size]
  const Checkpoint::Entry* kept = nullptr;    ///< of a tensor that is kept
  const Checkpoint::Entry* packed = nullptr;  ///< of a quantized tensor
  const Checkpoint::Entry* norms = nullptr;
  std::int64_t rows = 0;    ///< quantized: product of all dimensions but the last
  std::int64_t groups = 0;  ///< quantized: groups a row; line r * groups + g of `packed` is group g of row r
  std::shared_ptr<const Codec> codec;  ///< of a quantized tensor; its dim is group_size

  /// in_dim: elements of a row that are not padding.
  std::int64_t in_dim() const { return shape.empty() ? 1 : shape.back(); }
};

/// A native TQ3 checkpoint that was found sound. Move-only; reading is thread-safe.
class Tq3Checkpoint {
 public:
  /// True if `dir` has a tq_config.json.
  static bool claims(const std::string& dir);

  /// Opens and validates. Error as Checkpoint::open(), and with file and tensor: the configuration is missing or makes no
  /// sense; a packed tensor without norms or the other way round; types or sizes that do not fit one another, the
  /// configuration's bits or the shape it tells; a tensor that only the configuration or only the files know.
  static Tq3Checkpoint open(const std::string& dir);

  const Checkpoint& checkpoint() const { return checkpoint_; }
  const Tq3Config& config() const { return config_; }
  /// In the order of the checkpoint's tensors; a quantized one where its codes are.
  const std::vector<Tq3Tensor>& tensors() const { return tensors_; }
  /// nullptr if there is none of that name.
  const Tq3Tensor* find(std::string_view name) const;

 private:
  explicit Tq3Checkpoint(Checkpoint checkpoint) : checkpoint_(std::move(checkpoint)) {}

  Checkpoint checkpoint_;
  Tq3Config config_;
  std::vector<Tq3Tensor> tensors_;
  std::unordered_map<std::string_view, std::size_t> index_;
};

}  // namespace tq
