// A coded head as byte streams: which tensors a CacheScheme has in a file, and the two ways between them and a CodedHead.
// docs/format.md, section 4, is the specification.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "lib/cache/cache_codec.h"

namespace tq {

/// One stream of one head; the tensor in the file is [heads, ...shape].
struct StreamSpec {
  std::string_view suffix;          ///< ".codes"
  DType dtype;
  std::vector<std::int64_t> shape;  ///< of one head

  std::uint64_t bytes() const;      ///< of one head
};

/// The streams of a scheme for heads of `tokens` tokens, in a fixed order: those of rows first.
std::vector<StreamSpec> list_streams(const CacheScheme& scheme, std::int64_t tokens);

using StreamBytes = std::vector<std::vector<std::byte>>;  ///< one a stream, in that order

StreamBytes to_streams(const CacheScheme& scheme, const CodedHead& head);

/// The inverse. Error, beginning with `where`, for bytes that no encoder writes: norms or steps that are negative or not
/// finite, pad bits that are not zero, channels out of order, means, minima and exact rows that are not finite.
CodedHead from_streams(const CacheScheme& scheme, std::int64_t tokens, const StreamBytes& streams, const std::string& where);

}  // namespace tq
