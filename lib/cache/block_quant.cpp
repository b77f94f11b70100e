#include "lib/cache/block_quant.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "lib/cache/foreign_parts.h"
#include "lib/math/rotation.h"

namespace tq {
namespace {

constexpr int kBlock = 32;
constexpr int kSmallestRotation = 64;

enum class Coding { kRounded, kSigned, kAffine };

struct BlockFormat {
  std::string_view name;
  int bits;
  Coding coding;

  int levels() const { return (1 << bits) - 1; }
  int block_bytes() const { return kBlock * bits / 8 + (coding == Coding::kAffine ? 4 : 2); }
};

constexpr BlockFormat kFormats[] = {
    {"q8_0", 8, Coding::kRounded}, {"q5_1", 5, Coding::kAffine}, {"q5_0", 5, Coding::kSigned},
    {"q4_1", 4, Coding::kAffine},  {"q4_0", 4, Coding::kSigned},
};

/// x [32] -> x_hat [32], which may be x. Where the stored scale is 0 no code is computed: it would
/// decode to the same, and its inverse need not be finite.
void round_block(const BlockFormat& format, const float* x, float* x_hat, const RowPlace& place) {
  const auto [least, largest] = std::minmax_element(x, x + kBlock);
  const float* extreme =
      std::max_element(x, x + kBlock, [](float a, float b) { return std::abs(a) < std::abs(b); });
  const float minimum = *least;
  const float half = static_cast<float>(1 << (format.bits - 1));
  float scale = 0;
  switch (format.coding) {
    case Coding::kRounded:
      scale = std::abs(*extreme) / (half - 1);
      break;
    case Coding::kSigned:
      scale = *extreme / -half;
      break;
    case Coding::kAffine:
      scale = (*largest - minimum) / static_cast<float>(format.levels());
      break;
  }
  const float stored = place.store_f16(scale, "the scale of a block");
  const float offset =
      format.coding == Coding::kAffine ? place.store_f16(minimum, "the minimum of a block") : 0.0f;
  const float inverse = stored != 0.0f ? 1.0f / scale : 0.0f;

  for (int i = 0; i < kBlock; ++i) {
    float code = 0;
    if (format.coding == Coding::kRounded) {
      code = std::round(x[i] * inverse);
    } else {
      const bool is_signed = format.coding == Coding::kSigned;
      const float raw =
          is_signed ? x[i] * inverse + (half + 0.5f) : (x[i] - minimum) * inverse + 0.5f;
      code = std::min(std::trunc(raw), static_cast<float>(format.levels()));
      if (is_signed) code -= half;
    }
    x_hat[i] = code * stored + offset;
  }
}

class BlockQuant : public CacheMethod {
 public:
  BlockQuant(const BlockFormat& format, int dim, int rotation_block)
      : format_(format), dim_(dim), rotation_block_(rotation_block) {}

  std::string describe() const override {
    return fmt::format("{} of llama.cpp, blocks of {}{}", format_.name, kBlock,
                       rotation_block_ == 0 ? "" : fmt::format(", behind H_{}", rotation_block_));
  }

  std::uint64_t bytes(std::int64_t heads, std::int64_t tokens) const override {
    return count_rows(heads, tokens, dim_ / kBlock * format_.block_bytes());
  }

  void round_trip(std::span<const float> x, std::int64_t heads, std::int64_t tokens,
                  std::span<float> x_hat, const std::string& where) const override {
    for_each_row(x, heads, tokens, dim_, x_hat, where,
                 [&](std::span<const float> row, std::span<float> row_hat, const RowPlace& place) {
                   std::copy(row.begin(), row.end(), row_hat.begin());
                   rotate(row_hat);
                   for (int i = 0; i < dim_; i += kBlock) {
                     float* block = row_hat.data() + i;
                     float copy[kBlock];
                     std::copy(block, block + kBlock, copy);
                     round_block(format_, copy, block, place);
                   }
                   rotate(row_hat);
                 });
  }

 private:
  void rotate(std::span<float> row) const {
    if (rotation_block_ == 0) return;
    math::transform_blocks(row.data(), dim_, rotation_block_, math::Stored<float>{row.data()});
    const float scale = 1.0f / std::sqrt(static_cast<float>(rotation_block_));
    for (float& value : row) value *= scale;
  }

  BlockFormat format_;
  int dim_;
  int rotation_block_;
};

void check_rotated_dim(int dim) {
  if (dim % kSmallestRotation == 0) return;
  throw Error(fmt::format(
      "llama.cpp rotates rows of a multiple of {} only, and these have {}: name the format "
      "without :rotated",
      kSmallestRotation, dim));
}

}  // namespace

std::shared_ptr<const CacheMethod> make_block_quant(std::string_view format, int dim,
                                                    int rotation_block) {
  const auto* found = std::find_if(std::begin(kFormats), std::end(kFormats),
                                   [&](const BlockFormat& f) { return f.name == format; });
  if (found == std::end(kFormats)) throw Error(fmt::format("no block format {}", format));
  if (dim % kBlock != 0) {
    throw Error(
        fmt::format("{} needs rows of a multiple of {}, and these have {}", format, kBlock, dim));
  }
  return std::make_shared<BlockQuant>(*found, dim, rotation_block);
}

int llama_k_rotation(int dim) {
  check_rotated_dim(dim);
  int order = kSmallestRotation;
  while (dim % (2 * order) == 0) order *= 2;
  return order;
}

int llama_v_rotation(int dim) {
  check_rotated_dim(dim);
  return kSmallestRotation;
}

}  // namespace tq
