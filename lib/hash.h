// A fast hash of bytes that this machine reads for itself again; what files carry is XXH64 (lib/io/kv_file.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tq {

/// XXH3, 64 bits, seed 0, with the widest vectors that this machine runs.
std::uint64_t hash_bytes(std::span<const std::byte> bytes);

}  // namespace tq
