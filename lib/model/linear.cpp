#include "lib/model/linear.h"

#include <algorithm>

#include "lib/model/matmul.h"

namespace tq {
namespace {

/// Floats of a block of weights: 2 MB, half of a second-level cache.
constexpr std::int64_t kBlockFloats = std::int64_t{1} << 19;
constexpr std::int64_t kRowStep = 64;     // whole panels of every instruction set but the widest's second half
constexpr std::int64_t kDepthStep = 128;  // inputs of a transposed matrix that are read at once

struct Piece {
  const LinearTask* task;
  std::int64_t first;  ///< output rows
  std::int64_t count;
};

void add_pieces(const LinearTask& task, int threads, std::vector<Piece>& pieces) {
  const Matrix& m = *task.matrix;
  if (m.transposed) {
    pieces.push_back({&task, 0, m.out});
    return;
  }
  const auto round_up = [](std::int64_t rows) { return (rows + kRowStep - 1) / kRowStep * kRowStep; };
  const std::int64_t by_cache = std::max(kRowStep, kBlockFloats / m.in / kRowStep * kRowStep);
  const std::int64_t by_share = round_up((m.out + 4 * threads - 1) / (4 * threads));
  const std::int64_t step = std::min(by_cache, by_share);
  for (std::int64_t row = 0; row < m.out; row += step) pieces.push_back({&task, row, std::min(step, m.out - row)});
}

void add_bias(const WeightReader& reader, const Piece& piece) {
  const LinearTask& task = *piece.task;
  if (task.matrix->bias == nullptr) return;
  const std::vector<float> bias = read_vector(reader, *task.matrix->bias, task.matrix->bias_row);
  const float* from = bias.data() + task.matrix->bias_first + piece.first;
  for (std::int64_t t = 0; t < task.tokens; ++t) {
    float* y = task.y + t * task.y_stride + piece.first;
    for (std::int64_t i = 0; i < piece.count; ++i) y[i] += from[i];
  }
}

void run_rows(const WeightReader& reader, const Piece& piece, std::vector<float>& block) {
  const LinearTask& task = *piece.task;
  const Matrix& m = *task.matrix;
  block.resize(static_cast<std::size_t>(piece.count * m.in));
  reader.read_rows(*m.tensor, m.first_row + piece.first, piece.count, block.data());
  matmul_kernel().by_rows({task.x, task.x_stride, task.tokens, block.data(), m.in, piece.count, m.in,
                           task.y + piece.first, task.y_stride, false});
}

void run_transposed(const WeightReader& reader, const Piece& piece, std::vector<float>& block) {
  const LinearTask& task = *piece.task;
  const Matrix& m = *task.matrix;
  for (std::int64_t in = 0; in < m.in; in += kDepthStep) {
    const std::int64_t depth = std::min(kDepthStep, m.in - in);
    block.resize(static_cast<std::size_t>(depth * m.out));
    reader.read_rows(*m.tensor, m.first_row + in, depth, block.data());
    matmul_kernel().by_columns({task.x + in, task.x_stride, task.tokens, block.data(), m.out, m.out, depth, task.y,
                                task.y_stride, in > 0});
  }
}

}  // namespace

std::uint64_t stored_bytes(const WeightTensor& tensor, std::int64_t elements) {
  return static_cast<std::uint64_t>(static_cast<double>(tensor.stored_bytes) * static_cast<double>(elements) /
                                    static_cast<double>(tensor.values()));
}

void run_linear(const RunContext& context, std::span<const LinearTask> tasks) {
  if (context.device != nullptr) return context.device->run_linear({context.reader, context.threads, context.progress}, tasks);
  std::vector<Piece> pieces;
  for (const LinearTask& task : tasks) {
    if (task.tokens > 0) add_pieces(task, context.threads, pieces);
  }
  parallel_for(context.threads, static_cast<std::int64_t>(pieces.size()), [&](std::int64_t index) {
    static thread_local std::vector<float> block;
    const Piece& piece = pieces[static_cast<std::size_t>(index)];
    const Matrix& m = *piece.task->matrix;
    m.transposed ? run_transposed(*context.reader, piece, block) : run_rows(*context.reader, piece, block);
    add_bias(*context.reader, piece);
    if (context.progress) context.progress(stored_bytes(*m.tensor, piece.count * m.in));
  });
}

std::vector<float> apply_linear(const RunContext& context, const Matrix& matrix, std::span<const float> x,
                                std::int64_t tokens) {
  std::vector<float> y;
  apply_linear(context, matrix, x, tokens, y);
  return y;
}

void apply_linear(const RunContext& context, const Matrix& matrix, std::span<const float> x, std::int64_t tokens,
                  std::vector<float>& y) {
  y.resize(static_cast<std::size_t>(tokens * matrix.out));
  const LinearTask task = {&matrix, x.data(), matrix.in, tokens, y.data(), matrix.out};
  run_linear(context, {&task, 1});
}

std::vector<float> read_vector(const WeightReader& reader, const WeightTensor& tensor, std::int64_t row) {
  std::vector<float> out(static_cast<std::size_t>(tensor.shape.back()));
  reader.read_rows(tensor, row, 1, out.data());
  return out;
}

}  // namespace tq
