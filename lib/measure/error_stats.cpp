// Sums over rows, and the results that are read from them. A row is summed on its own before it
// joins the total.
#include "lib/measure/error_stats.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>

#include "lib/error.h"
#include "lib/math/compare.h"

namespace tq {
namespace {

constexpr double kNothingMeasured = std::numeric_limits<double>::quiet_NaN();

[[noreturn]] void refuse_row(std::int64_t row, const std::string& reason) {
  throw Error("error statistics: row " + std::to_string(row) + " " + reason);
}

}  // namespace

double cosine_from_sums(double dot, double x_energy, double x_hat_energy) {
  if (x_energy == 0 && x_hat_energy == 0) return 1;
  if (x_energy == 0 || x_hat_energy == 0) return 0;
  return std::clamp(dot / std::sqrt(x_energy * x_hat_energy), -1.0, 1.0);
}

double nearest_rank_percentile(std::vector<float> values, int percent) {
  if (values.empty()) return kNothingMeasured;
  const std::size_t n = values.size();
  const std::size_t rank = (n * static_cast<std::size_t>(percent) + 99) / 100;
  const auto nth = values.begin() + static_cast<std::ptrdiff_t>(std::max<std::size_t>(rank, 1) - 1);
  std::nth_element(values.begin(), nth, values.end());
  return *nth;
}

void ErrorStats::add_row(std::span<const float> x, std::span<const float> x_hat) {
  if (x.size() != x_hat.size() || x.empty()) {
    refuse_row(rows(), "has " + std::to_string(x.size()) + " values and its reconstruction " +
                           std::to_string(x_hat.size()) + ": give equal lengths of at least 1");
  }
  const RowSums row =
      math::compare_row(DType::kF32, reinterpret_cast<const std::uint8_t*>(x.data()), DType::kF32,
                        reinterpret_cast<const std::uint8_t*>(x_hat.data()), static_cast<int>(x.size()));
  add_sums({&row, 1}, static_cast<int>(x.size()));
}

void ErrorStats::add_sums(std::span<const RowSums> rows, int dim) {
  for (const RowSums& row : rows) {
    if (!std::isfinite(row.x_energy)) refuse_row(this->rows(), "holds NaN or infinity: mend the input");
    if (!std::isfinite(row.x_hat_energy)) {
      refuse_row(this->rows(), "of the reconstruction holds NaN or infinity: decode it again");
    }
    const double cosine = cosine_from_sums(row.dot, row.x_energy, row.x_hat_energy);
    cosines_.push_back(static_cast<float>(cosine));
    cosine_sum_ += cosine;
    values_ += dim;
    x_energy_ += row.x_energy;
    x_hat_energy_ += row.x_hat_energy;
    error_energy_ += row.error_energy;
    dot_ += row.dot;
    if (row.x_energy > 0) {
      ++rows_with_norm_;
      norm_ratio_sum_ += std::sqrt(row.x_hat_energy / row.x_energy);
    }
  }
}

void ErrorStats::add_rows(const float* x, const float* x_hat, std::int64_t rows, int dim) {
  if (rows < 0 || dim < 1) {
    throw Error("error statistics: " + std::to_string(rows) + " rows of " + std::to_string(dim) +
                " values: give rows >= 0 and dim >= 1");
  }
  const auto length = static_cast<std::size_t>(dim);
  for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) {
    add_row({x + row * length, length}, {x_hat + row * length, length});
  }
}

void ErrorStats::merge(const ErrorStats& other) {
  values_ += other.values_;
  rows_with_norm_ += other.rows_with_norm_;
  x_energy_ += other.x_energy_;
  x_hat_energy_ += other.x_hat_energy_;
  error_energy_ += other.error_energy_;
  dot_ += other.dot_;
  cosine_sum_ += other.cosine_sum_;
  norm_ratio_sum_ += other.norm_ratio_sum_;
  // By index, so that merging an object with itself is sound; the vector grows as it likes, in all in linear time.
  const std::size_t count = other.cosines_.size();
  for (std::size_t i = 0; i < count; ++i) cosines_.push_back(other.cosines_[i]);
}

double ErrorStats::relative_mse() const {
  if (rows() == 0) return kNothingMeasured;
  if (x_energy_ == 0) return error_energy_ == 0 ? 0 : 1;
  return error_energy_ / x_energy_;
}

double ErrorStats::cosine_flattened() const {
  if (rows() == 0) return kNothingMeasured;
  return cosine_from_sums(dot_, x_energy_, x_hat_energy_);
}

double ErrorStats::cosine_mean() const {
  if (rows() == 0) return kNothingMeasured;
  return cosine_sum_ / static_cast<double>(rows());
}

double ErrorStats::cosine_p1() const { return nearest_rank_percentile(cosines_, 1); }

double ErrorStats::cosine_min() const {
  if (rows() == 0) return kNothingMeasured;
  return *std::min_element(cosines_.begin(), cosines_.end());
}

std::int64_t ErrorStats::worst_row() const {
  if (rows() == 0) return -1;
  return std::min_element(cosines_.begin(), cosines_.end()) - cosines_.begin();
}

double ErrorStats::norm_bias() const {
  if (rows_with_norm_ == 0) return kNothingMeasured;
  return norm_ratio_sum_ / static_cast<double>(rows_with_norm_) - 1;
}

double ErrorStats::bits_lost_to_shannon(double bits) const {
  return bits + 0.5 * std::log2(relative_mse());
}

}  // namespace tq
