// tq_config.json: text to numbers and back.
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "lib/error.h"
#include "lib/io/tq3_checkpoint.h"

namespace tq {
namespace {

using Json = nlohmann::json;  // sorted: looking up a key of an ordered_json takes time linear in their number

constexpr int kTqVersion = 2;  // of the object under "tq"
constexpr const char* kOwnHash = "xxh64";

/// Of the object under "tq" without its hash: as one line, with sorted keys.
std::string hash_own(Json own) {
  own.erase(kOwnHash);
  const std::string text = own.dump(-1, ' ', false, Json::error_handler_t::replace);
  return fmt::format("{:016x}", XXH64(text.data(), text.size(), 0));
}

class ConfigParser {
 public:
  explicit ConfigParser(const std::string& where) : where_(where) {}

  Tq3Config parse(const std::string& text) {
    const Json json = parse_json(text);
    if (!json.is_object()) fail("is not a JSON object");
    if (const std::string format = get<std::string>(json, "format"); format != kTq3Format) {
      fail(fmt::format("\"format\" is {}, and tq reads \"{}\"", quote_name(format), kTq3Format));
    }
    config_.bits = get_integer(json, "bits", 2, 4);
    config_.group_size = get_group_size(json);
    if (json.contains("quantizer_seed")) {
      config_.seed = static_cast<std::uint32_t>(get_integer(json, "quantizer_seed", 0, 0xffffffffLL));
    }
    if (json.contains("original_model")) config_.original_model = get<std::string>(json, "original_model");
    if (json.contains("sensitive_bits") && !json["sensitive_bits"].is_null()) {
      config_.sensitive_bits = get_integer(json, "sensitive_bits", 2, 4);
      config_.sensitive_patterns = get<std::vector<std::string>>(json, "sensitive_patterns");
    }
    if (json.contains("tq")) {
      parse_own(json["tq"]);
      check_public_keys();
    }
    return std::move(config_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(fmt::format("{}: {}; the file is damaged or no configuration of a native TQ3 checkpoint", where_, what));
  }

  Json parse_json(const std::string& text) {
    std::vector<std::set<std::string>> keys;  // of the objects that are open
    const auto note_keys = [&](int depth, Json::parse_event_t event, Json& value) {
      if (depth > 8) fail("nests deeper than 8");
      if (event == Json::parse_event_t::object_start) keys.emplace_back();
      if (event == Json::parse_event_t::object_end) keys.pop_back();
      if (event == Json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second) {
        fail(fmt::format("the key {} occurs twice", quote_name(value.get<std::string>())));
      }
      return true;
    };
    try {
      return Json::parse(text, note_keys);
    } catch (const nlohmann::json::exception&) {
      fail("is not valid JSON in UTF-8");
    }
  }

  template <class T>
  T get(const Json& json, const char* key) const {
    const auto found = json.find(key);
    if (found == json.end()) fail(fmt::format("has no \"{}\"", key));
    try {
      return found->get<T>();
    } catch (const nlohmann::json::exception&) {
      fail(fmt::format("\"{}\" is of another type than it should be", key));
    }
  }

  int get_integer(const Json& json, const char* key, std::int64_t least, std::int64_t most) const {
    const auto found = json.find(key);
    if (found == json.end()) fail(fmt::format("has no \"{}\"", key));
    const bool whole = found->is_number_integer();
    const bool fits = whole && (!found->is_number_unsigned() || found->get<std::uint64_t>() <= static_cast<std::uint64_t>(most));
    if (!fits || found->get<std::int64_t>() < least) {
      fail(fmt::format("\"{}\" is {}, and {}..{} are what tq knows", key, quote_name(found->dump()), least, most));
    }
    return static_cast<int>(found->get<std::int64_t>());
  }

  int get_group_size(const Json& json) const {
    const int size = get_integer(json, "group_size", 8, 1024);
    if (size == 64 || size == 128 || size == 256) return size;
    fail(fmt::format("\"group_size\" is {}, and 64, 128 and 256 have a table", size));
  }

  DType get_dtype(const Json& json) const {
    const auto name = get<std::string>(json, "dtype");
    const std::optional<DType> dtype = parse_dtype(name);
    if (!dtype) fail(fmt::format("\"dtype\" is {}, which is unknown", quote_name(name)));
    return *dtype;
  }

  std::string get_hash(const Json& json, const char* key) const {
    auto hash = get<std::string>(json, key);
    if (hash.size() == 16 && hash.find_first_not_of("0123456789abcdef") == std::string::npos) return hash;
    fail(fmt::format("\"{}\" is {}, not 16 hex digits", key, quote_name(hash)));
  }

  void parse_own(const Json& own) {
    if (!own.is_object()) fail("\"tq\" is not an object");
    get_integer(own, "version", kTqVersion, kTqVersion);
    config_.by_tq = true;
    config_.tool = get<std::string>(own, "tool");
    config_.effort = get_integer(own, "effort", 0, 9);
    config_.fingerprint = get_hash(own, "fingerprint");
    get_object(own.at("made_from"), "option", false);
    get_object(own.at("made_from"), "file");
    config_.made_from = own.at("made_from").dump();
    for (const auto& [bits, text] : own.at("schemes").items()) parse_own_scheme(bits, text);
    for (const auto& [name, tensor] : get_object(own, "quantized").items()) {
      const Json& shape = get_object(own, "quantized").at(name).at("shape");
      const bool whole = shape.is_array() && std::all_of(shape.begin(), shape.end(), [](const Json& n) {
        return n.is_number_unsigned() && n.get<std::uint64_t>() <= 0x7fffffffffffffffULL;
      });
      if (!whole || shape.size() < 2 || !tensor_bytes(DType::kF64, shape.get<std::vector<std::int64_t>>())) {
        fail(fmt::format("the shape of {} is no shape", quote_name(name)));
      }
      config_.quantized[name] = {get_integer(tensor, "bits", 2, 4), get_dtype(tensor), shape.get<std::vector<std::int64_t>>(),
                                 get_hash(tensor, "packed_xxh64"), get_hash(tensor, "norms_xxh64")};
    }
    for (const auto& [name, tensor] : get_object(own, "kept").items()) {
      config_.kept[name] = {get_dtype(tensor), get_hash(tensor, "xxh64")};
    }
    if (get_hash(own, kOwnHash) != hash_own(own)) {
      fail("\"tq\" is not what 'tq pack-weights' wrote there: its XXH64 is another");
    }
  }

  /// Other loaders know only the public keys: they must say what "tq" says.
  void check_public_keys() const {
    for (const auto& [bits, scheme] : config_.schemes) {
      if (scheme.seed != config_.seed) fail(fmt::format("\"quantizer_seed\" is {}, and \"tq\" says {}", config_.seed, scheme.seed));
    }
    for (const auto& [name, tensor] : config_.quantized) {
      if (tensor.bits == config_.bits_of(name)) continue;
      fail(fmt::format("by \"bits\" and \"sensitive_patterns\" {} has {} bits, and \"tq\" says {}", quote_name(name), config_.bits_of(name), tensor.bits));
    }
  }

  const Json& get_object(const Json& json, const char* key, bool of_objects = true) const {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_object()) fail(fmt::format("\"{}\" is not an object", key));
    const bool flat = std::all_of(found->begin(), found->end(), [](const Json& value) { return value.is_object(); });
    if (of_objects && !flat) fail(fmt::format("\"{}\" holds something that is not an object", key));
    return *found;
  }

  void parse_own_scheme(const std::string& bits, const Json& text) {
    if (!text.is_string()) fail("a scheme is not a string");
    const Scheme scheme = parse_scheme(text.get<std::string>(), where_);
    if (bits != std::to_string(scheme.bits) || scheme.dim != config_.group_size || scheme.norm_dtype != DType::kF32 ||
        scheme.qjl) {
      fail(fmt::format("the scheme of {} bits does not fit the group size or F32 norms", quote_name(bits)));
    }
    config_.schemes.emplace(scheme.bits, scheme);
  }

  const std::string& where_;
  Tq3Config config_;
};

}  // namespace

Scheme tq3_scheme(int bits, int group_size, std::uint32_t seed) {
  Scheme scheme;
  scheme.bits = bits;
  scheme.dim = group_size;
  scheme.rotation = RotationKind::kRht2;
  scheme.seed = seed;
  scheme.codebook = fmt::format("vj-d{}-b{}", group_size, bits);
  scheme.norm = NormMode::kCorrected;
  return scheme;
}

int Tq3Config::bits_of(std::string_view name) const {
  const bool sensitive = std::any_of(sensitive_patterns.begin(), sensitive_patterns.end(), [&](const std::string& pattern) {
    return name.find(pattern) != std::string_view::npos;
  });
  return sensitive && sensitive_bits != 0 ? sensitive_bits : bits;
}

Scheme Tq3Config::scheme_of(int tensor_bits) const {
  const auto found = schemes.find(tensor_bits);
  return found == schemes.end() ? tq3_scheme(tensor_bits, group_size, seed) : found->second;
}

Tq3Config parse_tq3_config(const std::string& text, const std::string& where) {
  try {
    return ConfigParser(where).parse(text);
  } catch (const nlohmann::json::exception&) {
    throw Error(fmt::format("{}: something under \"tq\" is missing or of another type; the file is damaged", where));
  }
}

std::string format_tq3_config(const Tq3Config& config) {
  Json json;
  json["format"] = kTq3Format;
  json["bits"] = config.bits;
  json["group_size"] = config.group_size;
  json["quantizer_seed"] = config.seed;
  json["compressed_layers"] = config.quantized.size();
  json["original_model"] = config.original_model;
  if (config.sensitive_bits != 0) {
    json["sensitive_bits"] = config.sensitive_bits;
    json["sensitive_patterns"] = config.sensitive_patterns;
  }
  Json& own = json["tq"];
  own["version"] = kTqVersion;
  own["tool"] = config.tool;
  own["effort"] = config.effort;
  own["fingerprint"] = config.fingerprint;
  own["made_from"] = Json::parse(config.made_from);
  own["schemes"] = Json::object();
  for (const auto& [bits, scheme] : config.schemes) own["schemes"][std::to_string(bits)] = format_scheme(scheme);
  own["quantized"] = Json::object();
  for (const auto& [name, tensor] : config.quantized) {
    own["quantized"][name] = {{"bits", tensor.bits}, {"codebook", config.scheme_of(tensor.bits).codebook},
                              {"dtype", name_of(tensor.dtype)}, {"shape", tensor.shape},
                              {"packed_xxh64", tensor.packed_hash}, {"norms_xxh64", tensor.norms_hash}};
  }
  own["kept"] = Json::object();
  for (const auto& [name, tensor] : config.kept) {
    own["kept"][name] = {{"dtype", name_of(tensor.dtype)}, {"xxh64", tensor.hash}};
  }
  own[kOwnHash] = hash_own(own);
  return json.dump(2) + "\n";
}

}  // namespace tq
