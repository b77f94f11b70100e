#include "lib/pack/weight_check.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "lib/convert.h"

namespace tq {
namespace {

/// Which groups of a block are checked, and how they form rows.
struct Sample {
  std::int64_t rows;
  std::int64_t groups_a_row;
};

Sample choose_sample(const WeightItem& item, const WeightBlock& block) {
  // A block holds whole rows, or part of one row, whose groups are then taken for rows.
  const std::int64_t groups_a_row = block.count % item.groups == 0 && block.first % item.groups == 0 ? item.groups : 1;
  const std::int64_t rows = block.count / groups_a_row;
  const std::int64_t share = checked_share(item);
  if (rows >= share) return {(rows + share - 1) / share, groups_a_row};
  const std::int64_t number = block.first / block.count;  // a block of few rows: one row of every so many blocks
  return {number % (share / rows) == 0 ? 1 : 0, groups_a_row};
}

RowSums add_up(const RowSums& a, const RowSums& b) {
  return {a.dot + b.dot, a.x_energy + b.x_energy, a.x_hat_energy + b.x_hat_energy, a.error_energy + b.error_energy};
}

}  // namespace

std::int64_t checked_share(const WeightItem& item) {
  return std::clamp<std::int64_t>(item.source->info->elements() / kLeastChecked, 1, kLeastShare);
}

void F16Losses::add(std::span<const float> source, std::span<const float> stored) {
  constexpr float kLeastNormal = 0x1p-14f;
  for (std::size_t i = 0; i < source.size(); ++i) {
    const float magnitude = std::fabs(source[i]);
    if (!(magnitude < kLeastNormal) || source[i] == stored[i]) continue;
    const bool is_zero = stored[i] == 0;
    (is_zero ? zeroed : subnormal) += 1;
    double& largest = is_zero ? largest_zeroed : largest_subnormal;
    largest = std::max<double>(largest, magnitude);
  }
}

void F16Losses::merge(const F16Losses& other) {
  zeroed += other.zeroed;
  subnormal += other.subnormal;
  largest_zeroed = std::max(largest_zeroed, other.largest_zeroed);
  largest_subnormal = std::max(largest_subnormal, other.largest_subnormal);
}

void WeightCheck::check(const Backend& backend, const WeightItem& item, const WeightBlock& block, const std::byte* groups,
                        const std::uint8_t* codes, const float* norms) {
  const Sample sample = choose_sample(item, block);
  if (sample.rows == 0) return;
  const std::int64_t group_size = item.codec->scheme().dim;
  const std::int64_t row_length = sample.groups_a_row * group_size;  // padding included
  const std::int64_t lines = sample.rows * sample.groups_a_row;
  const DType dtype = item.source->info->dtype;
  std::vector<float> x(static_cast<std::size_t>(sample.rows * row_length));
  std::vector<float> x_hat(x.size());
  std::vector<RowSums> sums(static_cast<std::size_t>(lines));
  const auto length_of = [&](std::int64_t row) {
    const std::int64_t first_group = (block.first + row * sample.groups_a_row) % item.groups;
    return std::min(row_length, item.in_dim() - first_group * group_size);
  };
  convert_to_float(dtype, groups, static_cast<std::int64_t>(x.size()), x.data());
  backend.decode(*item.codec, codes, norms, lines, DType::kF32, x_hat.data());
  for (std::int64_t row = 0; row < sample.rows; ++row) {
    const auto at = static_cast<std::ptrdiff_t>(row * row_length);
    const std::int64_t length = length_of(row);
    moments_.add({x.data() + at, static_cast<std::size_t>(length)});
    std::fill(x_hat.begin() + at + length, x_hat.begin() + at + row_length, 0.0f);  // decoders drop the padding
  }
  backend.compare(static_cast<int>(group_size), dtype, groups, DType::kF32, x_hat.data(), lines, sums.data());
  ErrorStats block_errors;
  for (std::int64_t row = 0; row < sample.rows; ++row) {
    const RowSums* groups_of_row = sums.data() + row * sample.groups_a_row;
    const RowSums whole = std::accumulate(groups_of_row, groups_of_row + sample.groups_a_row, RowSums(), add_up);
    block_errors.add_sums({&whole, 1}, static_cast<int>(length_of(row)));
  }
  if (block_errors.rows() > 0 && block_errors.cosine_min() < worst_cosine_) {
    worst_cosine_ = block_errors.cosine_min();
    worst_row_ = (block.first + block_errors.worst_row() * sample.groups_a_row) / item.groups;
  }
  errors_.merge(block_errors);
}

void WeightCheck::merge(const WeightCheck& later) {
  errors_.merge(later.errors_);
  moments_.merge(later.moments_);
  if (later.worst_cosine_ < worst_cosine_) {
    worst_cosine_ = later.worst_cosine_;
    worst_row_ = later.worst_row_;
  }
}

WeightStats WeightCheck::result() const {
  WeightStats stats;
  stats.rows_checked = errors_.rows();
  stats.values_checked = errors_.values();
  if (stats.rows_checked == 0) return stats;
  stats.relative_mse = errors_.relative_mse();
  stats.worst_row = worst_row_;
  stats.worst_cosine = worst_cosine_;
  stats.kurtosis = moments_.kurtosis();
  return stats;
}

}  // namespace tq
