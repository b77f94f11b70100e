#include "lib/cache/kivi.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "lib/cache/foreign_parts.h"

namespace tq {
namespace {

constexpr auto kGroupSize = static_cast<std::size_t>(kKiviGroup);
constexpr std::int64_t kGroupTableBytes = 4;  // scale and zero in F16

/// 32 values that lie `stride` apart, one or no token further each. `place` is the first one's.
void round_group(int bits, const float* x, std::size_t stride, float* x_hat, const RowPlace& place,
                 std::int64_t token_step) {
  float group[kGroupSize];
  for (std::size_t i = 0; i < kGroupSize; ++i) {
    const std::int64_t token = place.token + static_cast<std::int64_t>(i) * token_step;
    group[i] = RowPlace{place.where, place.head, token}.store_f16(x[i * stride], "a value");
  }
  const auto [least, largest] = std::minmax_element(group, group + kGroupSize);
  const float zero = *least;
  const float levels = static_cast<float>((1 << bits) - 1);
  const float range = place.store_f16(*largest - zero, "the range of a group");
  const float scale = round_to_f16(range / levels);
  for (std::size_t i = 0; i < kGroupSize; ++i) {
    float code = 0;
    if (scale > 0) {
      const float quotient = round_to_f16(round_to_f16(group[i] - zero) / scale);
      code = std::nearbyint(std::min(quotient, levels));
    }
    x_hat[i * stride] = code * scale + zero;
  }
}

class KiviKeys : public CacheMethod {
 public:
  KiviKeys(int bits, int dim) : bits_(bits), dim_(dim) {}

  std::string describe() const override {
    return fmt::format("KIVI keys, {} bits by channel over {} tokens, newest {} in F16", bits_,
                       kKiviGroup, kKiviBuffer);
  }

  std::uint64_t bytes(std::int64_t heads, std::int64_t tokens) const override {
    const std::int64_t groups = std::max<std::int64_t>(tokens - kKiviBuffer, 0) / kKiviGroup;
    const std::int64_t group_bytes = dim_ * (kKiviGroup * bits_ / 8 + kGroupTableBytes);
    return count_rows(heads, groups, group_bytes) +
           count_rows(heads, tokens - groups * kKiviGroup, 2 * dim_);
  }

  void round_trip(std::span<const float> x, std::int64_t heads, std::int64_t tokens,
                  std::span<float> x_hat, const std::string& where) const override {
    const std::int64_t grouped = tokens / kKiviGroup * kKiviGroup;
    const auto dim = static_cast<std::size_t>(dim_);
    for_each_row(x, heads, tokens, dim_, x_hat, where,
                 [&](std::span<const float> row, std::span<float> row_hat, const RowPlace& place) {
                   if (place.token >= grouped) {
                     for (std::size_t i = 0; i < dim; ++i) {
                       row_hat[i] = place.store_f16(row[i], "a value");
                     }
                   } else if (place.token % kKiviGroup == 0) {
                     for (std::size_t i = 0; i < dim; ++i) {
                       round_group(bits_, row.data() + i, dim, row_hat.data() + i, place, 1);
                     }
                   }
                 });
  }

  std::int64_t recent_tokens() const override { return kKiviBuffer; }

 private:
  int bits_;
  int dim_;
};

class KiviValues : public CacheMethod {
 public:
  KiviValues(int bits, int dim) : bits_(bits), dim_(dim) {}

  std::string describe() const override {
    return fmt::format("KIVI values, {} bits by token over {} channels, newest {} in F16", bits_,
                       kKiviGroup, kKiviBuffer);
  }

  std::uint64_t bytes(std::int64_t heads, std::int64_t tokens) const override {
    const std::int64_t buffered = std::min(tokens, kKiviBuffer);
    const std::int64_t row_bytes = dim_ / kKiviGroup * (kKiviGroup * bits_ / 8 + kGroupTableBytes);
    return count_rows(heads, tokens - buffered, row_bytes) + count_rows(heads, buffered, 2 * dim_);
  }

  void round_trip(std::span<const float> x, std::int64_t heads, std::int64_t tokens,
                  std::span<float> x_hat, const std::string& where) const override {
    for_each_row(x, heads, tokens, dim_, x_hat, where,
                 [&](std::span<const float> row, std::span<float> row_hat, const RowPlace& place) {
                   for (std::size_t i = 0; i < row.size(); i += kGroupSize) {
                     round_group(bits_, row.data() + i, 1, row_hat.data() + i, place, 0);
                   }
                 });
  }

  std::int64_t recent_tokens() const override { return kKiviBuffer; }

 private:
  int bits_;
  int dim_;
};

}  // namespace

std::shared_ptr<const CacheMethod> make_kivi_keys(int bits, int dim) {
  return std::make_shared<KiviKeys>(bits, dim);
}

std::shared_ptr<const CacheMethod> make_kivi_values(int bits, int dim) {
  if (dim % kKiviGroup != 0) {
    throw Error(fmt::format("kivi{} needs values of a multiple of {}, and these have {}", bits,
                            kKiviGroup, dim));
  }
  return std::make_shared<KiviValues>(bits, dim);
}

}  // namespace tq
