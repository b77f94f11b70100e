#include "lib/io/kv_file.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "lib/convert.h"
#include "lib/error.h"

namespace tq {
namespace {

constexpr std::size_t kHashDigits = 16;
constexpr std::string_view kDumpPrefix = "dump.";
constexpr std::size_t kChunkBytes = std::size_t{4} << 20;

std::string at_tensor(const std::string& path, const std::string& name) { return fmt::format("{}: {}", path, name); }

const std::string& metadata_at(const SafetensorsFile& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end()) {
    throw Error(fmt::format("{}: the metadata has no '{}'; the file is damaged or was not written by tq",
                            file.file().path(), key));
  }
  return found->second;
}

/// {"name":"k.0","dtype":"BF16","shape":[1,3,256,64]}, each key once and no other.
TensorSpec parse_source(const std::string& text, const std::string& where) {
  int keys = 0;
  const auto count_keys = [&](int, nlohmann::json::parse_event_t event, nlohmann::json&) {
    keys += event == nlohmann::json::parse_event_t::key ? 1 : 0;
    return true;
  };
  try {
    const nlohmann::json json = nlohmann::json::parse(text, count_keys);
    const std::optional<DType> dtype = parse_dtype(json.at("dtype").get<std::string>());
    const nlohmann::json& shape = json.at("shape");
    const bool whole = std::all_of(shape.begin(), shape.end(), [](const auto& n) { return n.is_number_unsigned(); });
    if (keys == 3 && whole && (dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBf16)) {
      return {json.at("name").get<std::string>(), *dtype, shape.get<std::vector<std::int64_t>>()};
    }
  } catch (const nlohmann::json::exception&) {
  }
  throw Error(fmt::format("{}: cannot read the description of its source: {}", where, quote_name(text)));
}

/// [heads, tokens, dim] of a source, with or without a leading batch of 1. Error for any other shape.
std::vector<std::int64_t> source_shape(const TensorSpec& source, const std::string& where) {
  std::vector<std::int64_t> shape = source.shape;
  if (shape.size() == 4 && shape.front() == 1) shape.erase(shape.begin());
  if (shape.size() == 3 && shape[0] >= 1 && shape[1] >= 1 && shape[2] >= kMinDim && shape[2] <= kMaxRowDim) return shape;
  throw Error(fmt::format("{}: the shape of its source is [{}], and it must be [heads, tokens, dim]", where,
                          fmt::join(source.shape, ", ")));
}

/// The layer of a metadata key "k.L.scheme" or "k.L.h0.scheme", or -1 for any other key ("k.00.scheme" is one).
int layer_of_key(const std::string& key) {
  int layer = -1;
  if (!key.starts_with("k.")) return -1;
  std::from_chars(key.data() + 2, key.data() + key.size(), layer);
  const std::string name = fmt::format("k.{}", layer);
  return layer >= 0 && (key == scheme_key(name) || key == scheme_key(head_name(name, 0))) ? layer : -1;
}

}  // namespace

std::string scheme_key(const std::string& tensor) { return tensor + ".scheme"; }
std::string source_key(const std::string& tensor) { return tensor + ".source"; }
std::string hash_key(const std::string& tensor_name) { return tensor_name + ".xxh64"; }
std::string codebook_tensor(const Scheme& scheme) { return "codebook." + scheme.codebook; }

std::string rotation_tensor(const Scheme& scheme) {
  if (is_dense(scheme.rotation, scheme.dim)) return fmt::format("rotation.qr-d{}-s{}", scheme.dim, scheme.seed);
  const int m = scheme.rotation == RotationKind::kIdentity ? 1 : hadamard_order(scheme.dim);
  return m > 1 ? fmt::format("rotation.hadamard-{}", m) : "";
}

std::string sketch_tensor(const Scheme& scheme) {
  return scheme.qjl ? fmt::format("qjl.d{}-s{}", scheme.dim, *scheme.qjl) : "";
}

std::string head_name(const std::string& tensor, std::int64_t head) { return fmt::format("{}.h{}", tensor, head); }

std::string format_hash(std::uint64_t hash) { return fmt::format("{:016x}", hash); }

std::uint64_t hash_header(std::string_view header, const std::string& where) {
  const std::string field = fmt::format("\"{}\":\"", kHeaderHashKey);
  const std::size_t found = header.find(field);
  if (found == std::string_view::npos || header.size() < found + field.size() + kHashDigits) {
    throw Error(fmt::format("{}: the header has no {}; the file was not written by tq", where, kHeaderHashKey));
  }
  std::string text(header);
  text.erase(found + field.size(), kHashDigits);
  return XXH64(text.data(), text.size(), 0);
}

bool KvFile::claims(const SafetensorsFile& file) {
  const auto format = file.metadata().find("format");
  return format != file.metadata().end() && format->second == kKvFormat;
}

KvFile KvFile::open(const std::string& path) {
  KvFile result(SafetensorsFile::open(path));
  const SafetensorsFile& file = result.file_;
  if (!claims(file)) {
    throw Error(fmt::format("{}: not a .tq3 KV file (its metadata does not say format={}); 'tq pack-kv' writes one",
                            path, kKvFormat));
  }
  if (const std::string& version = metadata_at(file, "format_version"); version != kKvFormatVersion) {
    throw Error(fmt::format("{}: format version {}, and this version of tq reads {}; use a newer tq", path, version,
                            kKvFormatVersion));
  }
  const std::string& stored = metadata_at(file, std::string(kHeaderHashKey));
  if (const std::string actual = format_hash(hash_header(file.header(), path)); actual != stored) {
    throw Error(fmt::format("{}: the header's hash is {}, and it should be {}: the file is damaged", path, actual,
                            stored));
  }

  Codecs codecs;
  for (const auto& [key, value] : file.metadata()) {
    if (key.starts_with(kDumpPrefix)) result.dump_metadata_[key.substr(kDumpPrefix.size())] = value;
    const int layer = layer_of_key(key);
    if (layer < 0 || (!result.layers_.empty() && result.layers_.back().index == layer)) continue;
    result.layers_.push_back({layer, result.read_tensor(fmt::format("k.{}", layer), codecs),
                              result.read_tensor(fmt::format("v.{}", layer), codecs)});
    const PackedLayer& last = result.layers_.back();
    if (last.k.heads != last.v.heads || last.k.tokens != last.v.tokens) {
      throw Error(fmt::format("{}: k.{} and v.{} differ in heads or tokens; the file is damaged", path, layer, layer));
    }
  }
  if (result.layers_.empty()) throw Error(fmt::format("{}: it has no layer", path));
  std::sort(result.layers_.begin(), result.layers_.end(),
            [](const PackedLayer& a, const PackedLayer& b) { return a.index < b.index; });
  result.check_names();
  return result;
}

void KvFile::check_names() const {
  const std::string& path = file_.file().path();
  std::set<std::string> known;
  std::set<std::string> sources = {"__metadata__"};
  for (const PackedLayer& layer : layers_) {
    for (const PackedTensor* t : {&layer.k, &layer.v}) {
      for (const PackedHeads& part : t->parts) {
        for (const TensorInfo* stream : part.streams) known.insert(stream->name);
        for (const Codec* codec : {part.codec->rows(), part.codec->outliers()}) {
          if (codec == nullptr) continue;
          const Scheme& scheme = codec->scheme();
          known.insert({codebook_tensor(scheme), rotation_tensor(scheme), sketch_tensor(scheme)});
        }
      }
      if (!sources.insert(t->source.name).second) {
        throw Error(fmt::format("{}: {}: another tensor has the source name {} too; the file is damaged", path, t->name,
                                quote_name(t->source.name)));
      }
    }
  }
  for (const TensorInfo& tensor : file_.tensors()) {
    if (!known.contains(tensor.name)) {
      throw Error(fmt::format("{}: no scheme speaks of the tensor {}; the file is damaged or newer than this tq", path,
                              quote_name(tensor.name)));
    }
    metadata_at(file_, hash_key(tensor.name));
  }
}

PackedTensor KvFile::read_tensor(const std::string& name, Codecs& codecs) const {
  const std::string where = at_tensor(file_.file().path(), name);
  PackedTensor t;
  t.name = name;
  t.source = parse_source(metadata_at(file_, source_key(name)), where);
  const std::vector<std::int64_t> shape = source_shape(t.source, where);
  t.heads = shape[0];
  t.tokens = shape[1];
  t.dim = static_cast<int>(shape[2]);
  if (file_.metadata().contains(scheme_key(head_name(name, 0)))) {
    if (file_.metadata().contains(scheme_key(name))) {
      throw Error(fmt::format("{}: has a scheme, and its head 0 has one too; the file is damaged", where));
    }
    for (std::int64_t head = 0; head < t.heads; ++head) t.parts.push_back(read_heads(head_name(name, head), t, head, 1, codecs));
  } else {
    t.parts.push_back(read_heads(name, t, 0, t.heads, codecs));
  }
  return t;
}

PackedHeads KvFile::read_heads(const std::string& name, const PackedTensor& tensor, std::int64_t first, std::int64_t count,
                               Codecs& codecs) const {
  const std::string where = at_tensor(file_.file().path(), name);
  const std::string& text = metadata_at(file_, scheme_key(name));
  PackedHeads part;
  part.name = name;
  part.scheme = parse_cache_scheme(text, where);
  part.first_head = first;
  part.heads = count;
  part.tokens = tensor.tokens;
  if (part.scheme.dim != tensor.dim) {
    throw Error(fmt::format("{}: the shape of its source has rows of {}, and its scheme rows of {}", where, tensor.dim, part.scheme.dim));
  }
  part.specs = list_streams(part.scheme, part.tokens);
  for (const StreamSpec& spec : part.specs) {
    std::vector<std::int64_t> shape = spec.shape;
    shape.insert(shape.begin(), count);
    const TensorInfo& found = file_.at(name + std::string(spec.suffix));
    if (found.dtype != spec.dtype || found.shape != shape) {
      throw Error(fmt::format("{}{}: must be {} [{}] for the scheme '{}'", where, spec.suffix, name_of(spec.dtype),
                              fmt::join(shape, ", "), text));
    }
    part.streams.push_back(&found);
  }
  std::shared_ptr<const CacheCodec>& codec = codecs[text];
  if (codec == nullptr) codec = read_codec(part.scheme);
  part.codec = codec;
  return part;
}

std::vector<float> KvFile::read_table(const std::string& name, const std::vector<std::int64_t>& shape) const {
  const TensorInfo& tensor = file_.at(name);
  if (tensor.dtype != DType::kF32 || tensor.shape != shape) {
    throw Error(fmt::format("{}: the table '{}' must be F32 [{}]", file_.file().path(), name, fmt::join(shape, ", ")));
  }
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  const std::span<std::byte> bytes = std::as_writable_bytes(std::span(values));
  file_.read(tensor, 0, bytes);
  check_hash(tensor, XXH64(bytes.data(), bytes.size(), 0));
  return values;
}

std::shared_ptr<const CacheCodec> KvFile::read_codec(const CacheScheme& scheme) const {
  if (scheme.kind != CacheKind::kTurboQuant) return std::make_shared<const CacheCodec>(scheme);
  return std::make_shared<const CacheCodec>(scheme, read_row_codec(scheme.rows),
                                            scheme.outlier_channels > 0 ? read_row_codec(scheme.outlier_rows) : nullptr);
}

std::shared_ptr<const Codec> KvFile::read_row_codec(const Scheme& scheme) const {
  const std::string where = at_tensor(file_.file().path(), codebook_tensor(scheme));
  Codebook codebook;
  try {
    codebook = make_codebook(read_table(codebook_tensor(scheme), {std::int64_t{1} << scheme.bits}));
  } catch (const Error& error) {
    const std::string message = error.what();
    throw Error(message.starts_with(file_.file().path()) ? message : fmt::format("{}: {}", where, message));
  }
  std::vector<float> matrix;
  const std::string rotation = rotation_tensor(scheme);
  if (!rotation.empty()) {
    const std::int64_t order = is_dense(scheme.rotation, scheme.dim) ? scheme.dim : hadamard_order(scheme.dim);
    matrix = read_table(rotation, {order, order});
  }
  std::vector<float> sketch;
  if (scheme.qjl) sketch = read_table(sketch_tensor(scheme), {scheme.dim, scheme.dim});
  return std::make_shared<const Codec>(scheme, codebook, std::move(matrix), std::move(sketch),
                                       at_tensor(file_.file().path(), rotation.empty() ? "tables" : rotation));
}

void KvFile::check_hash(const TensorInfo& tensor, std::uint64_t hash) const {
  const std::string actual = format_hash(hash);
  if (const std::string& stored = metadata_at(file_, hash_key(tensor.name)); actual != stored) {
    throw Error(fmt::format("{}: {}: the data's hash is {}, and it should be {}: the file is damaged", file_.file().path(),
                            tensor.name, actual, quote_name(stored)));
  }
}

void KvFile::check_payload(int threads, const Progress& progress) const {
  const std::vector<TensorInfo>& tensors = file_.tensors();
  parallel_for(threads, static_cast<std::int64_t>(tensors.size()), [&](std::int64_t i) {
    const TensorInfo& tensor = tensors[static_cast<std::size_t>(i)];
    const std::unique_ptr<XXH64_state_t, void (*)(XXH64_state_t*)> state(XXH64_createState(),
                                                                         [](XXH64_state_t* s) { XXH64_freeState(s); });
    XXH64_reset(state.get(), 0);
    std::vector<std::byte> buffer(std::min<std::uint64_t>(tensor.bytes, kChunkBytes));
    for (std::uint64_t done = 0; done < tensor.bytes;) {
      const std::span<std::byte> part(buffer.data(), std::min<std::uint64_t>(buffer.size(), tensor.bytes - done));
      file_.read(tensor, done, part);
      XXH64_update(state.get(), part.data(), part.size());
      done += part.size();
      if (progress) progress(part.size());
    }
    check_hash(tensor, XXH64_digest(state.get()));
  });
  std::vector<std::pair<const PackedTensor*, std::int64_t>> heads;
  for (const PackedLayer& layer : layers_) {
    for (const PackedTensor* tensor : {&layer.k, &layer.v}) {
      for (std::int64_t head = 0; head < tensor->heads; ++head) heads.emplace_back(tensor, head);
    }
  }
  parallel_for(threads, static_cast<std::int64_t>(heads.size()), [&](std::int64_t i) {
    const auto& [tensor, head] = heads[static_cast<std::size_t>(i)];
    read_head(*tensor, head);
  });
}

void KvFile::read_norms(const TensorInfo& tensor, std::int64_t first, std::span<float> norms) const {
  std::vector<std::byte> raw(norms.size() * size_of(tensor.dtype));
  file_.read(tensor, static_cast<std::uint64_t>(first) * size_of(tensor.dtype), raw);
  convert_to_float(tensor.dtype, raw.data(), static_cast<std::int64_t>(norms.size()), norms.data());
}

void KvFile::read_rows(const PackedHeads& heads, std::int64_t first, std::int64_t count, CodedRows& coded) const {
  coded.resize(heads.scheme.rows, count);
  const auto read_bytes = [&](const TensorInfo& stream, std::vector<std::uint8_t>& rows) {
    const std::uint64_t row_bytes = rows.size() / static_cast<std::uint64_t>(count);
    file_.read(stream, static_cast<std::uint64_t>(first) * row_bytes, std::as_writable_bytes(std::span(rows)));
  };
  read_bytes(*heads.streams[0], coded.codes);
  read_norms(*heads.streams[1], first, coded.norms);
  if (!heads.scheme.rows.qjl) return;
  read_bytes(*heads.streams[2], coded.signs);
  read_norms(*heads.streams[3], first, coded.residual_norms);
}

CodedHead KvFile::read_head(const PackedTensor& tensor, std::int64_t head) const {
  const PackedHeads& part = tensor.part_of(head);
  StreamBytes bytes;
  for (std::size_t i = 0; i < part.streams.size(); ++i) {
    bytes.emplace_back(part.specs[i].bytes());
    file_.read(*part.streams[i], static_cast<std::uint64_t>(head - part.first_head) * bytes.back().size(), bytes.back());
  }
  return from_streams(part.scheme, part.tokens, bytes,
                      fmt::format("{}: {}: head {}", file_.file().path(), tensor.name, head));
}

std::uint64_t PackedHeads::bytes() const {
  std::uint64_t sum = 0;
  for (const TensorInfo* stream : streams) sum += stream->bytes;
  return sum;
}

std::uint64_t PackedTensor::bytes() const {
  std::uint64_t sum = 0;
  for (const PackedHeads& part : parts) sum += part.bytes();
  return sum;
}

}  // namespace tq
