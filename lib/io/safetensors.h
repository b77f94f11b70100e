// The safetensors container: 8 bytes that hold the length N of the header (unsigned,
// little-endian), N bytes of JSON that name each tensor, its type, shape and place, then the
// tensors' bytes, little-endian and row-major. The reader trusts nothing: the whole header is
// proved sound before the first tensor can be asked for. The writer plans first and writes after:
// from its construction on every offset is fixed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "lib/dtype.h"
#include "lib/io/atomic_file.h"
#include "lib/io/file.h"
#include "lib/io/safetensors_header.h"

namespace tq {

/// A safetensors file that was found sound and is open for reading. Move-only; reading is
/// thread-safe.
class SafetensorsFile {
 public:
  /// Opens and validates. Error as InputFile::open() and parse_safetensors_header(), and for a file
  /// that is too short, a header longer than the file or than kMaxSafetensorsHeader, truncated
  /// data, and appended bytes.
  static SafetensorsFile open(const std::string& path);

  /// All tensors, in the order of the header's text (which need not be the order of offsets).
  const std::vector<TensorInfo>& tensors() const { return parsed_.tensors; }

  /// The tensor of that name, or nullptr.
  const TensorInfo* find(std::string_view name) const;

  /// The tensor of that name, or an Error that names file and tensor.
  const TensorInfo& at(std::string_view name) const;

  /// The strings of `__metadata__`; empty if there is none.
  const std::map<std::string, std::string>& metadata() const { return parsed_.metadata; }

  /// The header's JSON text as it stands in the file, with its trailing spaces; valid until this
  /// object moves.
  std::string_view header() const { return header_; }

  const InputFile& file() const { return file_; }

  /// Fills `out` with the bytes of `tensor` from `byte_offset` (within the tensor) on. Error if the
  /// range is not inside.
  void read(const TensorInfo& tensor, std::uint64_t byte_offset, std::span<std::byte> out) const;

 private:
  SafetensorsFile(InputFile file, std::string header, SafetensorsHeader parsed);

  InputFile file_;
  std::string header_;
  SafetensorsHeader parsed_;
  std::unordered_map<std::string_view, std::size_t> index_;  // name (owned by parsed_) -> position
};

/// A tensor that is going to be written.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
};

using MetadataList = std::vector<std::pair<std::string, std::string>>;

/// Writes a safetensors file in any order of pieces. The same specs and metadata give the same
/// bytes: `__metadata__` first (absent if empty), pairs and tensors in the order given, data
/// contiguous in that order, and the header padded with spaces so that the data starts at a
/// multiple of 64 bytes.
class SafetensorsWriter {
 public:
  /// Plans: from here on every offset is fixed. Error for a name or metadata key that occurs twice,
  /// a tensor named
  /// `__metadata__`, text that is not UTF-8, a negative dimension, a size that overflows, a header
  /// that is too long.
  explicit SafetensorsWriter(const std::vector<TensorSpec>& specs,
                             const MetadataList& metadata = {});

  /// The tensors in the order of the specs, with their offsets in the file.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }

  /// Bytes of the whole file.
  std::uint64_t total_bytes() const { return 8 + header_.size() + data_bytes_; }

  /// The header's JSON text as it will be written, with its trailing spaces and with what
  /// set_metadata() has changed.
  std::string_view header_text() const { return header_; }

  /// Creates the temporary and reserves total_bytes(). Errors as AtomicFile::open() and reserve().
  void create(const std::string& path, bool overwrite);

  /// Writes `data` at `byte_offset` within tensor `index`. Thread-safe for ranges that do not
  /// overlap. Each byte of a tensor is to be written exactly once: commit() counts. Error before
  /// create(), for a range that is not inside the tensor, and as AtomicFile::write().
  void write(std::size_t index, std::uint64_t byte_offset, std::span<const std::byte> data);

  /// Replaces a metadata value, for what is known only after the data (a hash). Before commit();
  /// not thread-safe. Error unless `key` exists and the new value takes exactly as many bytes of
  /// JSON as the old, so that no offset moves.
  void set_metadata(std::string_view key, std::string_view value);

  /// Writes the header, last, and puts the file in place. Error if a tensor has not got all of its
  /// bytes, and as AtomicFile::commit(). Without commit() nothing is left on disk.
  void commit();

 private:
  struct Place {
    std::size_t offset;
    std::size_t length;
  };

  AtomicFile& out();

  std::string header_;
  std::map<std::string, Place, std::less<>>
      metadata_;  // key -> its value's JSON text within header_
  std::vector<TensorInfo> tensors_;
  std::vector<std::uint64_t> written_;  // bytes a tensor, counted through atomic_ref
  std::uint64_t data_bytes_ = 0;
  std::optional<AtomicFile> file_;
  bool committed_ = false;
};

}  // namespace tq
