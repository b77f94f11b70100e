// The .tq3 KV file: a compressed KV cache in a safetensors container. docs/format.md is the specification; this is the
// reader, and the names that reader and writer share.
//
// When open() returns, the header is known to be whole and unchanged (its hash), every scheme is known to this version,
// and every tensor has the shape that its scheme asks for. check_payload() then proves the bytes.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lib/cache/cache_streams.h"
#include "lib/io/safetensors.h"
#include "lib/parallel.h"

namespace tq {

inline constexpr std::string_view kKvFormat = "tq3-kv";
inline constexpr std::string_view kKvFormatVersion = "1";
inline constexpr std::string_view kHeaderHashKey = "header_xxh64";

/// Keys of the metadata, and names of the tables' tensors. `tensor` is "k.0", "v.17" ...
std::string scheme_key(const std::string& tensor);
std::string source_key(const std::string& tensor);
std::string hash_key(const std::string& tensor_name);
std::string codebook_tensor(const Scheme& scheme);
/// Empty where the rotation is Sylvester's and needs no table.
std::string rotation_tensor(const Scheme& scheme);
/// Empty where the scheme has no QJL sketch.
std::string sketch_tensor(const Scheme& scheme);
/// "k.0.h3": head 3 of k.0, where it has a scheme of its own.
std::string head_name(const std::string& tensor, std::int64_t head);

/// 16 lower-case hexadecimal digits.
std::string format_hash(std::uint64_t hash);
/// XXH64 (seed 0) of the header's text without the digits of its own hash. Throws Error if the field is not there.
std::uint64_t hash_header(std::string_view header, const std::string& where);

/// Heads of K or V that share a scheme: all of them, or one.
struct PackedHeads {
  std::string name;             ///< "k.0"; "k.0.h3" where the heads of a layer differ
  CacheScheme scheme;
  std::int64_t first_head = 0;
  std::int64_t heads = 0;
  std::int64_t tokens = 0;
  std::vector<StreamSpec> specs;             ///< of one head
  std::vector<const TensorInfo*> streams;    ///< [heads, ...], in the order of specs
  std::shared_ptr<const CacheCodec> codec;

  std::int64_t coded_rows() const { return heads * scheme.coded_tokens(tokens); }
  std::uint64_t bytes() const;
};

/// K or V of one layer.
struct PackedTensor {
  std::string name;          ///< "k.0"
  TensorSpec source;         ///< the tensor that went in: name, dtype and shape
  std::int64_t heads = 0;
  std::int64_t tokens = 0;
  int dim = 0;
  std::vector<PackedHeads> parts;  ///< ascending by head, all heads once

  std::int64_t rows() const { return heads * tokens; }
  std::uint64_t bytes() const;
  const PackedHeads& part_of(std::int64_t head) const { return parts.size() == 1 ? parts.front() : parts[static_cast<std::size_t>(head)]; }
};

struct PackedLayer {
  int index = 0;
  PackedTensor k, v;
};

class KvFile {
 public:
  /// Opens and validates everything but the codes and norms: the header's hash, the schemes, the shapes, the tables. Errors name the file and the tensor or the metadata key.
  static KvFile open(const std::string& path);

  /// True if the safetensors file claims to be a .tq3 KV file (of whatever version).
  static bool claims(const SafetensorsFile& file);

  const SafetensorsFile& file() const { return file_; }
  const std::vector<PackedLayer>& layers() const { return layers_; }
  /// The metadata of the dump that went in.
  const std::map<std::string, std::string>& dump_metadata() const { return dump_metadata_; }

  /// Reads every tensor and compares its hash; refuses pad bits that are not zero, and norms that are negative or not
  /// finite. `progress` gets bytes.
  void check_payload(int threads, const Progress& progress = {}) const;

  /// Rows first .. first + count - 1 (row = head * tokens + token) of heads with a plain scheme.
  void read_rows(const PackedHeads& heads, std::int64_t first, std::int64_t count, CodedRows& coded) const;

  /// One head, 0 .. heads - 1 of the tensor, whatever its scheme. Error for bytes that no encoder writes.
  CodedHead read_head(const PackedTensor& tensor, std::int64_t head) const;

 private:
  explicit KvFile(SafetensorsFile file) : file_(std::move(file)) {}
  using Codecs = std::map<std::string, std::shared_ptr<const CacheCodec>>;  // by the scheme's text
  PackedTensor read_tensor(const std::string& name, Codecs& codecs) const;
  PackedHeads read_heads(const std::string& name, const PackedTensor& tensor, std::int64_t first, std::int64_t count,
                         Codecs& codecs) const;
  void read_norms(const TensorInfo& tensor, std::int64_t first, std::span<float> norms) const;
  std::shared_ptr<const CacheCodec> read_codec(const CacheScheme& scheme) const;
  std::shared_ptr<const Codec> read_row_codec(const Scheme& scheme) const;
  std::vector<float> read_table(const std::string& name, const std::vector<std::int64_t>& shape) const;
  void check_hash(const TensorInfo& tensor, std::uint64_t hash) const;
  void check_names() const;

  SafetensorsFile file_;
  std::vector<PackedLayer> layers_;
  std::map<std::string, std::string> dump_metadata_;
};

}  // namespace tq
