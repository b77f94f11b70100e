// The two pipelines of the KV cache: dump -> .tq3 file, and back. A newcomer reads these first.
#pragma once

#include "lib/backend.h"
#include "lib/io/kv_file.h"
#include "lib/pack/plan_kv.h"

namespace tq {

/// How a pipeline runs. Memory: about 2 MB a thread, whatever the file's size.
struct RunOptions {
  int threads = 1;
  bool overwrite = false;
  Progress progress;  ///< gets bytes of input
};

/// Compresses `dump` as `plan` says into the file `path`. The bytes do not depend on the backend or the threads.
/// Errors: a row that cannot be coded (named by tensor, head, token and channel), and those of reading and writing.
/// After an Error there is no file.
void pack_kv(const KvDump& dump, const KvPlan& plan, const Backend& backend, const std::string& path,
             const RunOptions& run);

/// Reconstructs the dump: the names, shapes and metadata that went in, each tensor in its own type or in `dtype`.
/// Errors: damaged input, a value that the type cannot hold (F16 above 65504). After an Error there is no file.
void unpack_kv(const KvFile& file, std::optional<DType> dtype, const Backend& backend, const std::string& path,
               const RunOptions& run);

/// Bytes of the file that unpack_kv() writes.
std::uint64_t unpacked_bytes(const KvFile& file, std::optional<DType> dtype);

}  // namespace tq
