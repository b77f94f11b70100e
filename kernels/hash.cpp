// XXH3 with the vectors of this target: the library chooses them when it is compiled.
#define XXH_INLINE_ALL
#if defined(__AVX512F__)
#define XXH_VECTOR 2  // XXH_AVX2: as fast, and g++ 12 warns of its own header for AVX-512
#endif
#include <xxhash.h>

#include "kernels/cpu_target.h"

namespace tq::TQ_TARGET {

std::uint64_t hash_bytes(const void* bytes, std::size_t count) { return XXH3_64bits(bytes, count); }

}  // namespace tq::TQ_TARGET
