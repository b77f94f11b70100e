#include "lib/pack/weight_check.h"

#include <algorithm>

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
  return {(rows + share - 1) / share, groups_a_row};
}

}  // namespace

std::int64_t checked_share(const WeightItem& item) {
  return std::clamp<std::int64_t>(item.source->info->elements() / kLeastChecked, 1, kLeastShare);
}

void WeightCheck::check(const Backend& backend, const WeightItem& item, const WeightBlock& block, const std::byte* groups,
                        const std::uint8_t* codes, const float* norms) {
  const Sample sample = choose_sample(item, block);
  const std::int64_t group_size = item.codec->scheme().dim;
  const std::int64_t row_length = sample.groups_a_row * group_size;
  const std::int64_t values = sample.rows * row_length;
  std::vector<float> x(static_cast<std::size_t>(values));
  std::vector<float> x_hat(x.size());
  convert_to_float(item.source->info->dtype, groups, values, x.data());
  backend.decode(*item.codec, codes, norms, sample.rows * sample.groups_a_row, DType::kF32, x_hat.data());
  ErrorStats block_errors;
  for (std::int64_t row = 0; row < sample.rows; ++row) {
    const std::int64_t first_group = (block.first + row * sample.groups_a_row) % item.groups;
    const std::int64_t length = std::min(row_length, item.in_dim() - first_group * group_size);  // without padding
    const std::size_t at = static_cast<std::size_t>(row * row_length);
    const std::span<const float> source(x.data() + at, static_cast<std::size_t>(length));
    block_errors.add_row(source, {x_hat.data() + at, source.size()});
    moments_.add(source);
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
