// Matrix products with weights in lanes: kWidth columns of w are packed into a panel [k][kWidth],
// and a tile of kTile tokens x kWidth columns is summed in registers, each x broadcast to all lanes.
// kPanels panels of kDepth steps stay in the second-level cache while all tokens pass by them, so a
// weight is loaded and transposed once.
#include "lib/model/matmul.h"

#include <algorithm>
#include <array>

#include "kernels/lanes_io.h"
#include "lib/math/lanes.h"

namespace tq {
namespace TQ_TARGET {
namespace {

using V = math::FloatLanes<TQ_LANES>;
using I = math::IntOf<V>;
constexpr int kLanes = TQ_LANES;
constexpr int kWidth = 2 * kLanes;
constexpr int kTile = TQ_LANES == 16 ? 12 : TQ_LANES == 1 ? 4 : 6;  // 24 sums of 32 registers, 12 of 16
constexpr int kDepth = 512;
constexpr int kPanels = 4;

V load(const float* from) {
  V out;
  __builtin_memcpy(&out, from, sizeof(V));
  return out;
}

void store(float* to, V value) { __builtin_memcpy(to, &value, sizeof(V)); }

/// panel[k][column] of `columns` rows of w, zeros beyond.
void pack_rows(const float* w, std::int64_t stride, int columns, int depth, float* panel) {
  if (columns < kWidth) std::fill(panel, panel + static_cast<std::int64_t>(depth) * kWidth, 0.0f);
  int column = 0;
  for (; column + kLanes <= columns; column += kLanes) {
    int k = 0;
    for (; k + kLanes <= depth; k += kLanes) {
      I block[kLanes];
      for (int r = 0; r < kLanes; ++r) __builtin_memcpy(&block[r], w + (column + r) * stride + k, sizeof(I));
      if constexpr (kLanes > 1) math::transpose(block);
      for (int r = 0; r < kLanes; ++r) __builtin_memcpy(panel + (k + r) * kWidth + column, &block[r], sizeof(I));
    }
    for (; k < depth; ++k) {
      for (int r = 0; r < kLanes; ++r) panel[k * kWidth + column + r] = w[(column + r) * stride + k];
    }
  }
  for (; column < columns; ++column) {
    for (int k = 0; k < depth; ++k) panel[k * kWidth + column] = w[column * stride + k];
  }
}

void pack_columns(const float* w, std::int64_t stride, int columns, int depth, float* panel) {
  for (int k = 0; k < depth; ++k) {
    const float* from = w + k * stride;
    std::copy(from, from + columns, panel + k * kWidth);
    std::fill(panel + k * kWidth + columns, panel + (k + 1) * kWidth, 0.0f);
  }
}

/// A tile of `Tokens` tokens against one panel.
template <int Tokens>
void multiply_tile(const float* x, std::int64_t x_stride, const float* panel, int depth, float* y,
                   std::int64_t y_stride, int columns, bool add) {
  V low[Tokens], high[Tokens];
  TQ_UNROLL(16)
  for (int t = 0; t < Tokens; ++t) low[t] = high[t] = V{};
  for (int k = 0; k < depth; ++k) {
    const V w_low = load(panel + k * kWidth);
    const V w_high = load(panel + k * kWidth + kLanes);
    TQ_UNROLL(16)
    for (int t = 0; t < Tokens; ++t) {
      const V value = math::splat<V>(x[t * x_stride + k]);
      low[t] += value * w_low;
      high[t] += value * w_high;
    }
  }
  for (int t = 0; t < Tokens; ++t) {
    float* out = y + t * y_stride;
    if (columns == kWidth) {
      store(out, add ? load(out) + low[t] : low[t]);
      store(out + kLanes, add ? load(out + kLanes) + high[t] : high[t]);
      continue;
    }
    float sums[kWidth];
    store(sums, low[t]);
    store(sums + kLanes, high[t]);
    for (int c = 0; c < columns; ++c) out[c] = add ? out[c] + sums[c] : sums[c];
  }
}

template <int Tokens>
void multiply_rest(std::int64_t tokens, const float* x, std::int64_t x_stride, const float* panel, int depth, float* y,
                   std::int64_t y_stride, int columns, bool add) {
  if constexpr (Tokens > 0) {
    if (tokens == Tokens) {
      multiply_tile<Tokens>(x, x_stride, panel, depth, y, y_stride, columns, add);
    } else {
      multiply_rest<Tokens - 1>(tokens, x, x_stride, panel, depth, y, y_stride, columns, add);
    }
  }
}

/// All tokens against `columns` columns, at most kPanels panels: a tile's x stays in the first-level
/// cache while the panels pass.
void multiply_panels(const MatmulArgs& a, std::int64_t k, int depth, std::int64_t column, const float* panels) {
  const bool add = a.add || k > 0;
  const std::int64_t end = std::min(a.columns, column + kPanels * kWidth);
  for (std::int64_t t = 0; t < a.tokens; t += kTile) {
    const float* panel = panels;
    const float* x = a.x + t * a.x_stride + k;
    for (std::int64_t c = column; c < end; c += kWidth, panel += kDepth * kWidth) {
      const int columns = static_cast<int>(std::min<std::int64_t>(kWidth, end - c));
      float* y = a.y + t * a.y_stride + c;
      if (t + kTile <= a.tokens) {
        multiply_tile<kTile>(x, a.x_stride, panel, depth, y, a.y_stride, columns, add);
      } else {
        multiply_rest<kTile - 1>(a.tokens - t, x, a.x_stride, panel, depth, y, a.y_stride, columns, add);
      }
    }
  }
}

template <class Pack>
void multiply(const MatmulArgs& a, std::int64_t depth_step, std::int64_t column_step, const Pack& pack) {
  alignas(64) static thread_local std::array<float, kPanels * kDepth * kWidth> panels;
  if (a.depth == 0 && !a.add) {
    for (std::int64_t t = 0; t < a.tokens; ++t) std::fill(a.y + t * a.y_stride, a.y + t * a.y_stride + a.columns, 0.0f);
  }
  for (std::int64_t column = 0; column < a.columns; column += kPanels * kWidth) {
    for (std::int64_t k = 0; k < a.depth; k += kDepth) {
      const int depth = static_cast<int>(std::min<std::int64_t>(kDepth, a.depth - k));
      float* panel = panels.data();
      for (std::int64_t c = column; c < std::min(a.columns, column + kPanels * kWidth); c += kWidth) {
        const int columns = static_cast<int>(std::min<std::int64_t>(kWidth, a.columns - c));
        pack(a.w + k * depth_step + c * column_step, a.w_stride, columns, depth, panel);
        panel += kDepth * kWidth;
      }
      multiply_panels(a, k, depth, column, panels.data());
    }
  }
}

}  // namespace

void multiply_by_rows(const MatmulArgs& args) { multiply(args, 1, args.w_stride, pack_rows); }
void multiply_by_columns(const MatmulArgs& args) { multiply(args, args.w_stride, 1, pack_columns); }

}  // namespace TQ_TARGET
}  // namespace tq
