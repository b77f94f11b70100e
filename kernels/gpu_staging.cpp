#include "kernels/gpu_staging.h"

#include <algorithm>
#include <cstring>

#include "lib/parallel.h"
#include "lib/stopwatch.h"

namespace tq {
namespace {

constexpr std::int64_t kFloatBytes = sizeof(float);
constexpr std::int64_t kPieceBytes = std::int64_t{1} << 20;  // of a thread's copy
constexpr int kMostThreads = 16;

/// Copies rows of `width` floats. One row may be long and rows may be short: both are cut for the threads.
void copy_rows(int threads, const float* from, std::int64_t from_stride, float* to, std::int64_t to_stride, std::int64_t rows,
               std::int64_t width) {
  if (from_stride == width && to_stride == width) {
    width *= rows;
    rows = 1;
  }
  const std::int64_t step = std::max<std::int64_t>(1, kPieceBytes / (width * kFloatBytes));  // rows of a piece, where rows are short
  const std::int64_t columns = std::min(width, kPieceBytes / kFloatBytes);                   // floats of one, where they are long
  const std::int64_t across = (width + columns - 1) / columns;
  const std::int64_t down = (rows + step - 1) / step;
  parallel_for(std::min(threads, kMostThreads), down * across, [&](std::int64_t piece) {
    const std::int64_t column = piece % across * columns;
    const auto bytes = static_cast<std::size_t>(std::min(columns, width - column) * kFloatBytes);
    const std::int64_t end = std::min(rows, (piece / across + 1) * step);
    for (std::int64_t r = piece / across * step; r < end; ++r) {
      std::memcpy(to + r * to_stride + column, from + r * from_stride + column, bytes);
    }
  });
}

}  // namespace

void Staging::upload(const float* from, std::int64_t stride, std::int64_t rows, std::int64_t width, float* to) {
  const ScopeSeconds timing(upload_seconds_);
  if (stride == width) {
    width *= rows;
    rows = 1;
  }
  const std::int64_t most = kBufferBytes / kFloatBytes;
  const std::int64_t columns = std::min(width, most), step = std::max<std::int64_t>(1, most / width);
  for (std::int64_t r = 0; r < rows; r += step) {
    for (std::int64_t c = 0; c < width; c += columns) {
      const std::int64_t here = std::min(step, rows - r), floats = std::min(columns, width - c);
      const auto slot = static_cast<std::size_t>(next_);
      next_ = 1 - next_;
      done_[slot].wait();
      buffers_[slot].reserve(kBufferBytes);
      auto* pinned = static_cast<float*>(buffers_[slot].data());
      copy_rows(threads_, from + r * stride + c, stride, pinned, floats, here, floats);
      check_cuda(cudaMemcpyAsync(to + r * width + c, pinned, static_cast<std::size_t>(here * floats * kFloatBytes),
                                 cudaMemcpyHostToDevice, nullptr),
                 "copying activations");
      done_[slot].record(nullptr);
    }
  }
}

void Staging::download(const float* from, std::int64_t from_stride, std::int64_t rows, std::int64_t width, float* to,
                       std::int64_t to_stride) {
  const ScopeSeconds timing(download_seconds_);
  struct Piece {
    std::int64_t row, rows, column, floats;
  };
  if (from_stride == width && to_stride == width) {
    from_stride = to_stride = width *= rows;
    rows = 1;
  }
  const std::int64_t most = kBufferBytes / kFloatBytes;
  const std::int64_t columns = std::min(width, most), step = std::max<std::int64_t>(1, most / width);
  const auto empty = [&](const Piece& p, std::size_t slot) {
    done_[slot].wait();
    copy_rows(threads_, static_cast<const float*>(buffers_[slot].data()), p.floats, to + p.row * to_stride + p.column, to_stride,
              p.rows, p.floats);
  };
  Piece before{};
  for (std::int64_t r = 0; r < rows; r += step) {
    for (std::int64_t c = 0; c < width; c += columns) {
      const Piece piece{r, std::min(step, rows - r), c, std::min(columns, width - c)};
      const auto slot = static_cast<std::size_t>(next_);
      next_ = 1 - next_;
      done_[slot].wait();
      buffers_[slot].reserve(kBufferBytes);
      const auto row_bytes = static_cast<std::size_t>(piece.floats * kFloatBytes);
      check_cuda(cudaMemcpy2DAsync(buffers_[slot].data(), row_bytes, from + r * from_stride + c,
                                   static_cast<std::size_t>(from_stride * kFloatBytes), row_bytes, static_cast<std::size_t>(piece.rows),
                                   cudaMemcpyDeviceToHost, nullptr),
                 "copying results back");
      done_[slot].record(nullptr);
      if (before.rows > 0) empty(before, 1 - slot);
      before = piece;
    }
  }
  if (before.rows > 0) empty(before, static_cast<std::size_t>(1 - next_));
}

}  // namespace tq
