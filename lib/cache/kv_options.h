// What a user asks of a KV cache, for every layer at once, and the CacheScheme that follows for each head.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "lib/cache/cache_scheme.h"

namespace tq {

enum class KvPart { kKeys, kValues };

/// Bits of one layer, where they differ from those of the others: one number for all heads, or one a head; 1..8, or 16 for
/// rows that are kept exactly. Empty: as the others.
struct LayerBits {
  std::vector<int> k, v;

  bool operator==(const LayerBits&) const = default;
};

/// Which layer: its number, and where it stands among the layers that are compressed.
struct LayerPlace {
  int index = 0;
  std::size_t position = 0;  ///< 0..count - 1
  std::size_t count = 1;
};

inline constexpr int kExactBits = 16;

/// 1..8, or 16.
inline bool is_width(int bits) { return (bits >= kMinBits && bits <= kMaxBits) || bits == kExactBits; }

struct KvSchemeOptions {
  int k_bits = 4;  ///< 1..8, the bit of the sketch included; 16: exact
  int v_bits = 4;  ///< 1..8; 16: exact
  RotationKind rotation = RotationKind::kRht2;
  std::uint32_t k_seed = kDefaultSeed;
  std::uint32_t v_seed = kDefaultSeed;
  NormMode norm = NormMode::kRaw;
  DType norm_dtype = DType::kF32;
  bool qjl_keys = false;  ///< K: one bit less for the codes, one for the sketch of the residual (k_bits >= 2)
  int effort = 0;         ///< of the encoder, 0..3; no decoder sees it

  bool center_keys = false;     ///< CacheScheme::center of K
  int outlier_channels = 0;     ///< CacheScheme::outlier_channels of K and V ...
  int outlier_bits = 0;         ///< ... and their bits, more than those of the others
  int group_values = 0;         ///< V: groups of so many channels instead of TurboQuant; 0: not
  int sinks = 0, recent = 0;    ///< CacheScheme's, of K and V
  int boundary_layers = 0;      ///< so many of the first, and of the last layers ...
  int boundary_bits = kExactBits;      ///< ... have these bits, 1..8 or 16
  std::map<int, LayerBits> layers{};    ///< by layer number; wins over the boundary

  /// Throws UsageError for settings that can never go together.
  void check() const;

  /// Throws Error, beginning with `where`, if `layers` speaks of a layer that is not there, or gives bits to more or fewer
  /// heads than it has. `heads`: the KV heads of each layer, by its number.
  void check_layers(const std::map<int, std::int64_t>& heads, const std::string& where) const;

  /// Whether the heads of a layer differ.
  bool differs_by_head(KvPart part, const LayerPlace& place) const;

  /// The scheme of one head of rows of `dim` elements. `source`: type of the rows that come, which decides what "exact" is:
  /// F16 stays F16, all else is BF16. Layers whose bits differ from k_bits or v_bits have no outlier channels. Throws Error,
  /// naming the layer, where dim does not allow it.
  CacheScheme scheme_of(KvPart part, const LayerPlace& place, std::int64_t head, int dim, DType source) const;

 private:
  int bits_of(KvPart part, const LayerPlace& place, std::int64_t head) const;
  Scheme row_scheme(KvPart part, int bits, int dim) const;
};

/// Reads a scheme file, as `tq plan` writes it: {"k_bits": 3, "v_bits": 3, "with": "center+sinks4", "layers": [{"layer": 0, "k": 4, "v": [3, 4]}]}; `with` is
/// what lib/cache/scheme_words.h reads, and may be left out;
/// the bits are 1..8 or 16, a list has one number a head. k_bits, v_bits and the list may be left out. Throws Error that
/// names the file and the entry, for keys that are not these too.
void read_scheme_file(const std::string& path, KvSchemeOptions& options);
/// The text of such a file.
std::string format_scheme_file(const KvSchemeOptions& options);

}  // namespace tq
