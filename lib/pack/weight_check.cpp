#include "lib/pack/weight_check.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "lib/convert.h"

namespace tq {
namespace {

/// Groups of a block that belong to one row, which is checked.
struct Run {
  std::int64_t row;
  std::int64_t first;   ///< group of the block
  std::int64_t groups;
  std::int64_t length;  ///< values, without padding
};

/// The row that is checked of rows share * stratum, ..., + share - 1: any of them, but the same in every run, so that no structure with
/// a period hides from the sample (splitmix64 of the number).
std::int64_t checked_row(std::int64_t stratum, std::int64_t share) {
  auto z = (static_cast<std::uint64_t>(stratum) + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return share * stratum + static_cast<std::int64_t>((z ^ (z >> 31)) % static_cast<std::uint64_t>(share));
}

std::vector<Run> choose_runs(const WeightItem& item, const WeightBlock& block, std::int64_t share) {
  std::vector<Run> runs;
  const std::int64_t group_size = item.codec->scheme().dim;
  const std::int64_t end = block.first + block.count;
  for (std::int64_t stratum = block.first / item.groups / share; stratum * share * item.groups < end; ++stratum) {
    const std::int64_t row = checked_row(stratum, share);
    if ((row + 1) * item.groups <= block.first || row * item.groups >= end) continue;
    const std::int64_t from = std::max(block.first, row * item.groups);
    const std::int64_t to = std::min(end, (row + 1) * item.groups);
    const std::int64_t values = std::min((to - row * item.groups) * group_size, item.in_dim()) - (from - row * item.groups) * group_size;
    runs.push_back({row, from - block.first, to - from, values});
  }
  return runs;
}

/// to := the groups of the runs, of `size` elements each.
template <class T>
void gather(const std::vector<Run>& runs, const T* from, std::int64_t size, std::vector<T>& to) {
  to.clear();
  for (const Run& run : runs) to.insert(to.end(), from + run.first * size, from + (run.first + run.groups) * size);
}

RowSums add_up(const RowSums& a, const RowSums& b) {
  return {a.dot + b.dot, a.x_energy + b.x_energy, a.x_hat_energy + b.x_hat_energy, a.error_energy + b.error_energy};
}

}  // namespace

std::int64_t checked_share(const WeightItem& item) {
  const std::int64_t by_values = std::clamp<std::int64_t>(item.source->info->elements() / kLeastChecked, 1, kLeastShare);
  return std::max<std::int64_t>(1, std::min(by_values, item.rows / kLeastRows));
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

void WeightCheck::check(const Backend& backend, const WeightItem& item, const WeightBlock& block, std::int64_t share,
                        const std::byte* groups, const std::uint8_t* codes, const float* norms) {
  const std::vector<Run> runs = choose_runs(item, block, share);
  if (runs.empty()) return;
  const std::int64_t group_size = item.codec->scheme().dim;
  const DType dtype = item.source->info->dtype;
  Sample& s = sample_;
  gather(runs, groups, group_size * static_cast<std::int64_t>(size_of(dtype)), s.groups);
  gather(runs, codes, item.codec->scheme().code_bytes(), s.codes);
  gather(runs, norms, 1, s.norms);
  const std::int64_t lines = std::ssize(s.norms);
  s.x.resize(static_cast<std::size_t>(lines * group_size));
  s.x_hat.resize(s.x.size());
  s.sums.resize(static_cast<std::size_t>(lines));
  convert_to_float(dtype, s.groups.data(), std::ssize(s.x), s.x.data());
  backend.decode(*item.codec, s.codes.data(), s.norms.data(), lines, DType::kF32, s.x_hat.data());
  std::ptrdiff_t at = 0;
  for (const Run& run : runs) {
    moments_.add({s.x.data() + at, static_cast<std::size_t>(run.length)});
    const std::ptrdiff_t end = at + run.groups * group_size;
    std::fill(s.x_hat.begin() + at + run.length, s.x_hat.begin() + end, 0.0f);  // decoders drop the padding
    at = end;
  }
  backend.compare(static_cast<int>(group_size), dtype, s.groups.data(), DType::kF32, s.x_hat.data(), lines, s.sums.data());
  const RowSums* of_run = s.sums.data();
  for (const Run& run : runs) {
    rows_.push_back({run.row, run.length, std::accumulate(of_run, of_run + run.groups, RowSums(), add_up)});
    of_run += run.groups;
  }
}

void WeightCheck::clear() {
  Sample kept = std::move(sample_);
  *this = WeightCheck();
  sample_ = std::move(kept);
}

void WeightCheck::add(const Row& row) {
  if (!rows_.empty() && rows_.back().number == row.number) {
    rows_.back().sums = add_up(rows_.back().sums, row.sums);
    rows_.back().length += row.length;
    return;
  }
  if (!rows_.empty()) finish(rows_.back());
  rows_.assign(1, row);
}

void WeightCheck::finish(const Row& row) {
  errors_.add_sums({&row.sums, 1}, static_cast<int>(row.length));
  const double cosine = cosine_from_sums(row.sums.dot, row.sums.x_energy, row.sums.x_hat_energy);
  if (cosine < worst_cosine_) {
    worst_cosine_ = cosine;
    worst_row_ = row.number;
  }
}

void WeightCheck::merge(const WeightCheck& later) {
  for (const Row& row : later.rows_) add(row);
  moments_.merge(later.moments_);
}

WeightStats WeightCheck::result() const {
  WeightCheck whole = *this;
  if (!rows_.empty()) whole.finish(rows_.back());
  WeightStats stats;
  stats.rows_checked = whole.errors_.rows();
  stats.values_checked = whole.errors_.values();
  if (stats.rows_checked == 0) return stats;
  stats.relative_mse = whole.errors_.relative_mse();
  stats.worst_row = whole.worst_row_;
  stats.worst_cosine = whole.worst_cosine_;
  stats.kurtosis = moments_.kurtosis();
  return stats;
}

}  // namespace tq
