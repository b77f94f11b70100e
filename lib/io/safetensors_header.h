// The header of a safetensors file: the JSON text that names each tensor, its type, shape and
// place. Nothing of it is believed until all of it has been proved sound; whoever holds a
// SafetensorsHeader may use its numbers unchecked.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/dtype.h"

namespace tq {

/// The longest header that is read or written, in bytes: the limit of the published implementation.
inline constexpr std::uint64_t kMaxSafetensorsHeader = 100'000'000;

/// The member of the header that is not a tensor but an object of strings.
inline constexpr std::string_view kMetadataName = "__metadata__";

/// Where a tensor lies in a file. `elements() * size_of(dtype) == bytes`, and no product of
/// dimensions overflows.
struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;  ///< row-major, the last index fastest; empty for a scalar
  std::uint64_t offset = 0;         ///< of the first byte, from the start of the file
  std::uint64_t bytes = 0;

  /// The product of the shape: 1 for a scalar, 0 if a dimension is 0.
  std::int64_t elements() const;
};

/// `text` in double quotes for a one-line message: control and non-ASCII characters as \uXXXX, cut
/// after 100 bytes.
std::string quote_name(std::string_view text);

/// Bytes of a tensor; nothing if a dimension is negative, or if the product of the dimensions that
/// are not 0 and the element size reaches 2^63. Leaving out the zeros makes every partial product
/// safe, whoever forms it later.
std::optional<std::uint64_t> tensor_bytes(DType dtype, const std::vector<std::int64_t>& shape);

/// What a header says, once it has been found sound.
struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  ///< in the order of the header's text
  std::map<std::string, std::string> metadata;
};

/// Parses and validates the JSON text of a header (without the 8 length bytes) for a file in which
/// `data_bytes` bytes follow it. `where` (the path) begins each message. Error, with tensor and
/// byte offset in the file, unless:
///  * the text is one JSON object in UTF-8, then spaces only; no key occurs twice in any object;
///  * each member is a tensor {"dtype", "shape", "data_offsets"}, no more and no less, or
///    `__metadata__`, an object of strings; a tensor may have any name, and the dtype must be one
///    that lib/dtype.h lists;
///  * dimensions are integers from 0 to 2^63-1, tensor_bytes() does not overflow, and it equals
///    end - begin;
///  * the tensors, sorted by offset, cover the data without gap or overlap, to its last byte.
SafetensorsHeader parse_safetensors_header(std::string_view header_json, std::uint64_t data_bytes,
                                           const std::string& where);

}  // namespace tq
