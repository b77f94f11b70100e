// Two collections of tensors side by side: which are equal, and how far apart the others are. Checkpoints, plain or native
// TQ3, by the model's values; .tq3 KV files by the rows that they decode to; other safetensors files by their values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/backend.h"
#include "lib/parallel.h"

namespace tq {

enum class DiffState {
  kIdentical,  ///< same type, shape, way of storing, and values to the bit
  kStorage,    ///< equal values, stored in another way (type, bits)
  kDifferent,  ///< other values
  kShape,      ///< other shapes, or types that cannot be compared: values were not looked at
  kOnlyA,
  kOnlyB,
};
std::string_view name_of(DiffState state);  ///< "identical", "storage", "different", "shape", "only in A", "only in B"

struct TensorDiff {
  std::string name;
  DiffState state = DiffState::kIdentical;
  std::string type_a, type_b;    ///< such as "BF16", "3 bit", or a scheme; empty where the tensor is not there
  std::vector<std::int64_t> shape_a, shape_b;
  std::int64_t values = 0;       ///< compared
  std::int64_t differing = 0;    ///< values that differ in a bit
  double max_abs = 0;            ///< largest |a - b|; infinity where one is NaN or infinite and the other is not the same
  double relative_mse = 0;       ///< sum |a - b|^2 / sum |a|^2; 0 where nothing differs, 1 where a is zero and b is not
};

struct DiffReport {
  std::string a, b;
  std::vector<TensorDiff> tensors;  ///< in the order of A, then those that only B has
  bool equal() const;               ///< all identical
};

/// a, b: directories or hub ids of checkpoints, or files: .tq3 KV files, or any safetensors. Works in bounded memory.
/// Progress gets values of A. Error: one cannot be opened or read; a .tq3 KV file beside something else.
DiffReport diff_tensors(const std::string& a, const std::string& b, const Backend& backend, int threads,
                        const Progress& progress);

}  // namespace tq
