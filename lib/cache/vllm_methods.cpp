#include "lib/cache/vllm_methods.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <vector>

#include "lib/cache/foreign_parts.h"
#include "lib/cache/fp8.h"
#include "lib/math/rotation.h"
#include "lib/solver/published.h"

namespace tq {
namespace {

struct Preset {
  std::string_view name;
  int key_bits;
  int value_bits;

  bool has_fp8_keys() const { return key_bits == 8; }
  int key_bytes(int dim) const { return has_fp8_keys() ? dim : (dim * key_bits + 7) / 8 + 2; }
  int value_bytes(int dim) const { return (dim * value_bits + 7) / 8 + 4; }
  int slot_bytes(int dim) const { return (key_bytes(dim) + value_bytes(dim) + 1) / 2 * 2; }
};

constexpr Preset kPresets[] = {
    {"turboquant_k8v4", 8, 4},
    {"turboquant_4bit_nc", 4, 4},
    {"turboquant_k3v4_nc", 3, 4},
    {"turboquant_3bit_nc", 3, 3},
};

class VllmKeys : public CacheMethod {
 public:
  VllmKeys(const Preset& preset, int dim) : preset_(preset), dim_(dim) {
    for (const double level : make_vllm_levels(dim, preset.key_bits)) {
      levels_.push_back(static_cast<float>(level));
    }
    for (std::size_t i = 0; i + 1 < levels_.size(); ++i) {
      midpoints_.push_back((levels_[i] + levels_[i + 1]) / 2);
    }
  }

  std::string describe() const override {
    return fmt::format("vLLM {}: Lloyd-Max keys of {} bits behind H_{}, norm corrected",
                       preset_.name, preset_.key_bits, dim_);
  }

  std::uint64_t bytes(std::int64_t heads, std::int64_t tokens) const override {
    return count_rows(heads, tokens, preset_.key_bytes(dim_));
  }

  void round_trip(std::span<const float> x, std::int64_t heads, std::int64_t tokens,
                  std::span<float> x_hat, const std::string& where) const override {
    for_each_row(x, heads, tokens, dim_, x_hat, where,
                 [&](std::span<const float> row, std::span<float> row_hat, const RowPlace& place) {
                   round_row(row, row_hat, place);
                 });
  }

 private:
  void round_row(std::span<const float> x, std::span<float> x_hat, const RowPlace& place) const {
    double energy = 0;
    for (const float value : x) energy += static_cast<double>(value) * value;
    const auto norm = static_cast<float>(std::sqrt(energy));
    const float stored_norm = place.store_f16(norm, "the norm");
    for (std::size_t i = 0; i < x.size(); ++i) x_hat[i] = x[i] / (norm + 1e-8f);
    rotate(x_hat);

    double level_energy = 0;
    for (float& value : x_hat) {
      const auto code = std::upper_bound(midpoints_.begin(), midpoints_.end(), value);
      value = levels_[static_cast<std::size_t>(code - midpoints_.begin())];
      level_energy += static_cast<double>(value) * value;
    }
    const float correction = 1.0f / std::sqrt(static_cast<float>(level_energy) + 1e-16f);
    for (float& value : x_hat) value *= correction;
    rotate(x_hat);
    for (float& value : x_hat) value *= stored_norm;
  }

  void rotate(std::span<float> row) const {
    math::transform_blocks(row.data(), dim_, dim_, math::Stored<float>{row.data()});
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim_));
    for (float& value : row) value *= scale;
  }

  Preset preset_;
  int dim_;
  std::vector<float> levels_;
  std::vector<float> midpoints_;
};

class VllmValues : public CacheMethod {
 public:
  VllmValues(const Preset& preset, int dim) : preset_(preset), dim_(dim) {}

  std::string describe() const override {
    return fmt::format("vLLM {}: uniform values of {} bits over the row", preset_.name,
                       preset_.value_bits);
  }

  std::uint64_t bytes(std::int64_t heads, std::int64_t tokens) const override {
    return count_rows(heads, tokens, preset_.slot_bytes(dim_) - preset_.key_bytes(dim_));
  }

  void round_trip(std::span<const float> x, std::int64_t heads, std::int64_t tokens,
                  std::span<float> x_hat, const std::string& where) const override {
    for_each_row(x, heads, tokens, dim_, x_hat, where,
                 [&](std::span<const float> row, std::span<float> row_hat, const RowPlace& place) {
                   round_row(row, row_hat, place);
                 });
  }

 private:
  void round_row(std::span<const float> x, std::span<float> x_hat, const RowPlace& place) const {
    const auto [least, largest] = std::minmax_element(x.begin(), x.end());
    const float minimum = *least;
    const auto levels = static_cast<float>((1 << preset_.value_bits) - 1);
    const float scale = std::max((*largest - minimum) / levels, 1e-8f);
    const float stored_scale = place.store_f16(scale, "the scale");
    const float stored_minimum = place.store_f16(minimum, "the minimum");
    for (std::size_t i = 0; i < x.size(); ++i) {
      const float code = std::min(std::trunc((x[i] - minimum) / scale + 0.5f), levels);
      x_hat[i] = code * stored_scale + stored_minimum;
    }
  }

  Preset preset_;
  int dim_;
};

}  // namespace

VllmMethods make_vllm_turboquant(std::string_view preset, int k_dim, int v_dim) {
  const auto* found = std::find_if(std::begin(kPresets), std::end(kPresets),
                                   [&](const Preset& p) { return p.name == preset; });
  if (found == std::end(kPresets)) throw Error(fmt::format("no preset {} of vLLM", preset));
  if (k_dim != v_dim) {
    throw Error(
        fmt::format("vLLM's {} needs keys and values of one length, and these have {} and {}",
                    preset, k_dim, v_dim));
  }
  VllmMethods methods;
  if (found->has_fp8_keys()) {
    methods.k = make_fp8_method(Fp8Scale::kOne, k_dim);
  } else if (std::has_single_bit(static_cast<unsigned>(k_dim))) {
    methods.k = std::make_shared<VllmKeys>(*found, k_dim);
  } else {
    throw Error(
        fmt::format("vLLM's {} needs rows of a power of two, and these have {}", preset, k_dim));
  }
  methods.v = std::make_shared<VllmValues>(*found, v_dim);
  return methods;
}

}  // namespace tq
