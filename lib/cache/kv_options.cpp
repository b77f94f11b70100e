#include "lib/cache/kv_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "lib/cache/scheme_words.h"
#include "lib/error.h"
#include "lib/io/file.h"
#include "lib/io/safetensors_header.h"

namespace tq {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::uint32_t kSketchSeedOffset = 1000;  // as the published systems: seed 42 and 1042
constexpr std::uint64_t kMaxSchemeFile = std::uint64_t{1} << 24;

/// The JSON of a scheme file. Error for what is no JSON object, for a key twice in an object, and for nesting beyond what a
/// scheme file has.
Json parse_scheme_json(const std::string& text, const std::string& path) {
  constexpr int kDeepest = 4;  // the object, the list, an entry, its bits
  std::vector<std::set<std::string>> keys;
  const auto check = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth >= kDeepest && (event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start)) {
      throw Error(fmt::format("{}: no scheme file: it is nested too deeply; tq plan writes one", path));
    }
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second) {
      throw Error(fmt::format("{}: the key {} stands twice in an object", path, quote_name(value.get<std::string>())));
    }
    return true;
  };
  const Json json = Json::parse(text, check, false);
  if (json.is_object()) return json;
  throw Error(fmt::format("{}: no scheme file: it is a JSON object with 'layers', a list; tq plan writes one", path));
}

void check_keys(const Json& object, const std::set<std::string>& known, const std::string& where) {
  for (const auto& [key, value] : object.items()) {
    if (known.contains(key)) continue;
    throw Error(fmt::format("{}: the key {} is not known; {} are", where, quote_name(key), fmt::join(known, ", ")));
  }
}

int read_width(const Json& value, const std::string& where) {
  if (value.is_number_integer()) {
    const auto bits = value.get<std::int64_t>();
    if (bits >= 0 && bits <= kExactBits && is_width(static_cast<int>(bits))) return static_cast<int>(bits);
  }
  throw Error(fmt::format("{}: {} is no width: bits are 1..8, or 16 for rows that are kept", where, quote_name(value.dump())));
}

std::vector<int> read_widths(const Json& entry, const char* key, const std::string& where) {
  if (!entry.contains(key)) return {};
  const Json& value = entry[key];
  if (!value.is_array()) return {read_width(value, fmt::format("{}: {}", where, key))};
  std::vector<int> bits;
  for (const Json& each : value) bits.push_back(read_width(each, fmt::format("{}: {}", where, key)));
  if (bits.empty()) throw Error(fmt::format("{}: {} is an empty list; give one number, or one a head", where, key));
  return bits;
}

Json widths_json(const std::vector<int>& bits) { return bits.size() == 1 ? Json(bits.front()) : Json(bits); }

}  // namespace

void KvSchemeOptions::check() const {
  if (qjl_keys && k_bits < 2) throw UsageError("--qjl-keys takes one bit of K for the sketch: K needs at least 2 bits");
  if (qjl_keys && outlier_channels > 0) throw UsageError("--qjl-keys and --outlier-channels do not go together");
  if (outlier_channels > 0 && outlier_bits <= std::min(k_bits, group_values > 0 ? k_bits : v_bits)) {
    throw UsageError(fmt::format("--outlier-channels {}:{}: the outliers need more bits than the other channels",
                                 outlier_channels, outlier_bits));
  }
  if (effort > 0 && norm != NormMode::kLeastSquares) throw UsageError("--effort 1 to 3 has least-squares norms");
}

int KvSchemeOptions::bits_of(KvPart part, const LayerPlace& place, std::int64_t head) const {
  const auto found = layers.find(place.index);
  if (found != layers.end()) {
    const std::vector<int>& bits = part == KvPart::kKeys ? found->second.k : found->second.v;
    if (bits.size() == 1) return bits.front();
    if (static_cast<std::size_t>(head) < bits.size()) return bits[static_cast<std::size_t>(head)];
    if (!bits.empty()) {
      throw Error(fmt::format("layer {}: {} heads of {} have bits, and there is a head {}", place.index, bits.size(),
                              part == KvPart::kKeys ? "K" : "V", head));
    }
  }
  const auto edge = static_cast<std::size_t>(boundary_layers);
  if (place.position < edge || place.position + edge >= place.count) return boundary_bits;
  return part == KvPart::kKeys ? k_bits : v_bits;
}

void KvSchemeOptions::check_layers(const std::map<int, std::int64_t>& heads, const std::string& where) const {
  for (const auto& [layer, bits] : layers) {
    const auto found = heads.find(layer);
    if (found == heads.end()) {
      throw Error(fmt::format("{}: has no layer {}, and the scheme file gives it bits; was it made for another model?", where, layer));
    }
    for (const std::vector<int>* of_part : {&bits.k, &bits.v}) {
      if (of_part->size() <= 1 || static_cast<std::int64_t>(of_part->size()) == found->second) continue;
      throw Error(fmt::format("{}: layer {} has {} heads, and the scheme file gives bits to {} of {}; give one number, or one a head",
                              where, layer, found->second, of_part->size(), of_part == &bits.k ? "K" : "V"));
    }
  }
}

bool KvSchemeOptions::differs_by_head(KvPart part, const LayerPlace& place) const {
  const auto found = layers.find(place.index);
  return found != layers.end() && (part == KvPart::kKeys ? found->second.k : found->second.v).size() > 1;
}

Scheme KvSchemeOptions::row_scheme(KvPart part, int bits, int dim) const {
  const bool keys = part == KvPart::kKeys;
  const bool sketch = keys && qjl_keys && bits >= 2;
  Scheme scheme = default_scheme(sketch ? bits - 1 : bits, dim, rotation, keys ? k_seed : v_seed);
  scheme.norm = norm;
  scheme.norm_dtype = norm_dtype;
  if (sketch) scheme.qjl = k_seed + kSketchSeedOffset;
  return scheme;
}

CacheScheme KvSchemeOptions::scheme_of(KvPart part, const LayerPlace& place, std::int64_t head, int dim, DType source) const {
  const bool keys = part == KvPart::kKeys;
  const int bits = bits_of(part, place, head);
  const DType exact = source == DType::kF16 ? DType::kF16 : DType::kBf16;
  if (bits == kExactBits) return exact_scheme(dim, exact);
  const bool own_bits = bits != (keys ? k_bits : v_bits);
  CacheScheme scheme;
  if (!keys && group_values > 0) {
    if (dim % group_values != 0 || group_values > dim) {
      throw Error(fmt::format("layer {}: --group-values {} does not divide the {} channels of V", place.index, group_values, dim));
    }
    scheme = group_scheme(bits, dim, group_values);
  } else if (outlier_channels > 0 && !own_bits && outlier_bits > bits) {
    if (dim - outlier_channels < kMinDim) {
      throw Error(fmt::format("layer {}: --outlier-channels {} leaves {} of {} channels, and a row has {} or more", place.index,
                              outlier_channels, dim - outlier_channels, dim, kMinDim));
    }
    scheme = plain_scheme(row_scheme(part, bits, dim - outlier_channels));
    scheme.dim = dim;
    scheme.outlier_channels = outlier_channels;
    scheme.outlier_rows = row_scheme(part, outlier_bits, outlier_channels);
  } else {
    scheme = plain_scheme(row_scheme(part, bits, dim));
  }
  scheme.center = keys && center_keys;
  scheme.sinks = sinks;
  scheme.recent = recent;
  if (sinks > 0 || recent > 0) scheme.exact_dtype = exact;
  return scheme;
}

void read_scheme_file(const std::string& path, KvSchemeOptions& options) {
  const InputFile file = InputFile::open(path);
  if (file.size() > kMaxSchemeFile) throw Error(fmt::format("{}: has {} bytes: no scheme file", path, file.size()));
  std::string text(file.size(), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  Json json = parse_scheme_json(text, path);
  check_keys(json, {"k_bits", "v_bits", "with", "layers"}, path);
  if (!json.contains("layers")) json["layers"] = Json::array();
  if (!json["layers"].is_array()) throw Error(fmt::format("{}: 'layers' is no list", path));
  if (json.contains("k_bits")) options.k_bits = read_width(json["k_bits"], path + ": k_bits");
  if (json.contains("v_bits")) options.v_bits = read_width(json["v_bits"], path + ": v_bits");
  if (json.contains("with")) {
    if (!json["with"].is_string()) throw Error(fmt::format("{}: 'with' is no text, such as \"center+sinks4\"", path));
    try {
      read_scheme_words(json["with"].get<std::string>(), path, options);
    } catch (const UsageError& error) {
      throw Error(error.what());
    }
  }
  for (std::size_t i = 0; i < json["layers"].size(); ++i) {
    const Json& entry = json["layers"][i];
    const std::string where = fmt::format("{}: layers[{}]", path, i);
    const bool numbered = entry.is_object() && entry.contains("layer") && entry["layer"].is_number_unsigned() &&
                          entry["layer"].get<std::uint64_t>() <= 0x7fffffffu && (entry.contains("k") || entry.contains("v"));
    if (!numbered) throw Error(fmt::format("{}: must be an object with 'layer', a number, and 'k' or 'v', bits", where));
    check_keys(entry, {"layer", "k", "v"}, where);
    const LayerBits bits{read_widths(entry, "k", where), read_widths(entry, "v", where)};
    if (!options.layers.emplace(entry["layer"].get<int>(), bits).second) {
      throw Error(fmt::format("{}: the layer {} stands there twice", where, entry["layer"].get<int>()));
    }
  }
}

std::string format_scheme_file(const KvSchemeOptions& options) {
  Json json = {{"k_bits", options.k_bits}, {"v_bits", options.v_bits}};
  if (const std::string words = format_scheme_words(options); !words.empty()) json["with"] = words;
  json["layers"] = Json::array();
  for (const auto& [layer, bits] : options.layers) {
    Json entry = {{"layer", layer}};
    if (!bits.k.empty()) entry["k"] = widths_json(bits.k);
    if (!bits.v.empty()) entry["v"] = widths_json(bits.v);
    json["layers"].push_back(entry);
  }
  return json.dump(2) + "\n";
}

}  // namespace tq
