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

#include "lib/codec.h"
#include "lib/coded_rows.h"
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

/// 16 lower-case hexadecimal digits.
std::string format_hash(std::uint64_t hash);
/// XXH64 (seed 0) of the header's text without the digits of its own hash. Throws Error if the field is not there.
std::uint64_t hash_header(std::string_view header, const std::string& where);

/// K or V of one layer.
struct PackedTensor {
  std::string name;          ///< "k.0"
  Scheme scheme;
  std::int64_t heads = 0;
  std::int64_t tokens = 0;
  TensorSpec source;         ///< the tensor that went in: name, dtype and shape
  const TensorInfo* codes = nullptr;           ///< U8 [heads, tokens, code_bytes]
  const TensorInfo* norms = nullptr;           ///< norm_dtype [heads, tokens]
  const TensorInfo* signs = nullptr;           ///< U8 [heads, tokens, sign_bytes]; null without QJL
  const TensorInfo* residual_norms = nullptr;  ///< norm_dtype [heads, tokens]; null without QJL
  std::shared_ptr<const Codec> codec;

  std::int64_t rows() const { return heads * tokens; }
  /// Those of the four that are there.
  std::vector<const TensorInfo*> streams() const;
  std::uint64_t bytes() const;
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

  /// Rows first .. first + count - 1 of a tensor (row = head * tokens + token).
  void read_rows(const PackedTensor& tensor, std::int64_t first, std::int64_t count, CodedRows& coded) const;

 private:
  explicit KvFile(SafetensorsFile file) : file_(std::move(file)) {}
  PackedTensor read_tensor(const std::string& name, std::map<std::string, std::shared_ptr<const Codec>>& codecs) const;
  const TensorInfo* find_stream(const PackedTensor& tensor, const std::string& suffix, DType dtype,
                                std::vector<std::int64_t> shape) const;
  void read_norms(const TensorInfo& tensor, std::int64_t first, std::span<float> norms) const;
  std::shared_ptr<const Codec> read_codec(const Scheme& scheme) const;
  std::vector<float> read_table(const std::string& name, const std::vector<std::int64_t>& shape) const;
  void check_hash(const TensorInfo& tensor, std::uint64_t hash) const;
  void check_rows(const PackedTensor& tensor) const;

  SafetensorsFile file_;
  std::vector<PackedLayer> layers_;
  std::map<std::string, std::string> dump_metadata_;
};

}  // namespace tq
