// The pipeline from a raw dump of another system's compressed KV cache to a KV dump.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lib/backend.h"
#include "lib/io/foreign_layout.h"
#include "lib/io/safetensors.h"
#include "lib/pack/pack_kv.h"

namespace tq {

/// What the user says about a raw dump. Empty: as the layout's system has it.
struct KvImportOptions {
  std::string layout;  ///< name of a ForeignLayout
  ForeignShape shape;
  std::optional<KvPart> part;  ///< default: both, where the layout holds both
  int layer = 0;               ///< L of the names k.L and v.L, 0..2^31-1
  std::optional<RotationKind> rotation;
  std::optional<std::uint32_t> seed;
  /// A published set of levels (lib/solver/published.h) at the dim and bits of the shape,
  /// "gaussian-3-sigma" or "gaussian-3-sigma-d128-b4"; else the path of a file that read_table()
  /// (lib/solver/codebook_text.h) reads.
  std::string codebook;
  DType dtype = DType::kF32;  ///< of the values: F32, F16 or BF16
};

/// A raw dump, open, with all that decoding it needs.
struct KvImport {
  struct Tensor {
    KvPart part;
    TensorSpec spec;  ///< k.L or v.L, [heads][tokens][dim]
    std::shared_ptr<const Codec> codec;
  };

  ForeignFile file;
  std::vector<Tensor> tensors;

  /// Bytes of codes and norms that are read, and of the file that is written.
  std::uint64_t input_bytes() const;
  std::uint64_t output_bytes() const;
};

/// Throws UsageError for options that do not fit each other, or that the layout leaves open and
/// that are not given: part, rotation, seed, codebook; also for a Hadamard rotation at a dim that
/// is no power of two, where the published systems pad and truncate, so that no orthogonal matrix
/// decodes their rows. Error: ForeignFile::open(), read_table(), a codebook file that has not
/// 2^bits levels.
KvImport open_import(const std::string& path, const KvImportOptions& options);

/// Decodes into the safetensors file `path`. Errors: those of ForeignFile::read_tokens(), a value
/// that the type cannot hold. After an Error there is no file.
void import_kv(const KvImport& import, const Backend& backend, const std::string& path,
               const RunOptions& run);

}  // namespace tq
