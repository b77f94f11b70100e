#include "kernels/forward_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "lib/error.h"

namespace tq {

StoredRows stored_rows(const WeightTensor& tensor) {
  const std::int64_t length = tensor.row_length();
  if (tensor.quantized == nullptr) return {length * static_cast<std::int64_t>(size_of(tensor.kept->info->dtype)), 0, length};
  const Scheme& scheme = tensor.quantized->codec->scheme();
  const std::int64_t groups = tensor.quantized->groups;
  return {groups * scheme.code_bytes(), groups, groups * scheme.dim};
}

std::vector<RowBlock> plan_blocks(const Matrix& matrix) {
  const StoredRows row = stored_rows(*matrix.tensor);
  const std::int64_t most = std::min(kBlockBytes / (row.bytes + row.groups * 4), kBlockValues / row.stride);
  if (most < 1) {
    throw Error(fmt::format("tensor {}: a row of {} bytes is larger than what goes to a GPU at once; use --device cpu",
                            matrix.tensor->name, row.bytes));
  }
  const std::int64_t step = most < kBlockRows ? most : most / kBlockRows * kBlockRows;
  const std::int64_t rows = matrix.transposed ? matrix.in : matrix.out;
  std::vector<RowBlock> blocks;
  for (std::int64_t first = 0; first < rows; first += step) {
    blocks.push_back({matrix.first_row + first, std::min(step, rows - first)});
  }
  return blocks;
}

std::vector<TaskGroup> plan_groups(std::span<const std::int64_t> tokens, std::span<const std::int64_t> bytes_per_token,
                                   std::int64_t budget) {
  std::vector<TaskGroup> groups;
  std::int64_t used = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto task = static_cast<std::int64_t>(i);
    const std::int64_t bytes = tokens[i] * bytes_per_token[i];
    if (bytes > budget) {
      const std::int64_t step = std::max(kFewestTokens, budget / bytes_per_token[i]);
      for (std::int64_t token = 0; token < tokens[i]; token += step) {
        groups.push_back({task, 1, token, std::min(step, tokens[i] - token)});
      }
      used = budget;  // the next task begins a group
      continue;
    }
    if (groups.empty() || used + bytes > budget) {
      groups.push_back({task, 0, 0, tokens[i]});
      used = 0;
    }
    ++groups.back().count;
    used += bytes;
  }
  return groups;
}

}  // namespace tq
