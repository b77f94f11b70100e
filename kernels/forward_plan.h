// How the work of a forward pass is cut for a device of limited memory: weights into blocks of rows, tokens into groups. Plain
// arithmetic, the same in every build.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/model/layout.h"

namespace tq {

/// A block of a matrix is at most so large as it is stored, and has at most so many values.
inline constexpr std::int64_t kBlockBytes = std::int64_t{64} << 20;
inline constexpr std::int64_t kBlockValues = std::int64_t{32} << 20;
/// Blocks begin at multiples of that many rows, so that every part of them is aligned as the first.
inline constexpr std::int64_t kBlockRows = 128;

/// Rows of a tensor.
struct RowBlock {
  std::int64_t first = 0, count = 0;
};

/// How the rows of a tensor lie in memory.
struct StoredRows {
  std::int64_t bytes = 0;   ///< of a row: its values, or its codes
  std::int64_t groups = 0;  ///< norms of a row; 0: not quantized
  std::int64_t stride = 0;  ///< values from row to row once decoded: the padded length of a quantized row

  /// Bytes of `rows` rows: values or codes, then norms from a multiple of 256 on.
  std::int64_t norms_at(std::int64_t rows) const { return (rows * bytes + 255) / 256 * 256; }
  std::int64_t total(std::int64_t rows) const { return norms_at(rows) + rows * groups * 4; }
};
StoredRows stored_rows(const WeightTensor& tensor);

/// The tensor's rows that a matrix is made of, in order: of a transposed matrix the inputs. Error for a row that is larger than a block.
std::vector<RowBlock> plan_blocks(const Matrix& matrix);

/// Tasks first .. first + count - 1 of a list, `tokens` of the first from `token` on (all of the others).
struct TaskGroup {
  std::int64_t first = 0, count = 0;
  std::int64_t token = 0, tokens = 0;
};

/// Groups whose bytes fit `budget`, in order; a task that does not fit alone is cut by tokens (at least kFewestTokens, however
/// much they take). bytes_per_token[i]: of task i; tokens[i] > 0.
inline constexpr std::int64_t kFewestTokens = 64;
std::vector<TaskGroup> plan_groups(std::span<const std::int64_t> tokens, std::span<const std::int64_t> bytes_per_token,
                                   std::int64_t budget);

}  // namespace tq
