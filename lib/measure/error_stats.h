// How far a reconstruction x_hat is from x, over the rows (token vectors) of one tensor or one
// head.
//
// Counts and double sums, so that threads may each fill one and merge them. Every result is named
// after its formula and carries no opinion: limits live elsewhere. A result that nothing was
// measured for is NaN, never a flattering 0: compare so that NaN fails, or look at rows() first.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/measure/row_sums.h"

namespace tq {

/// The cosine <x, x_hat> / sqrt(|x|^2 |x_hat|^2) from its three sums, clamped to [-1, 1].
/// A zero side has no direction, so this is defined: both zero (a zero row that came back as zeros)
/// is 1, one zero is 0. Thus zeros in place of a row score 0, and padding that is reproduced
/// exactly costs nothing.
double cosine_from_sums(double dot, double x_energy, double x_hat_energy);

/// The nearest-rank percentile: of n values in ascending order, the one of rank max(1, ceil(percent
/// / 100 * n)), counted from 1. Always one of the values, never an interpolation; of fewer than 100
/// values, percent 1 is the minimum and percent 99 the maximum. `percent` is 0..100. No value may
/// be NaN. NaN when there are no values.
double nearest_rank_percentile(std::vector<float> values, int percent);

/// Error of the rows of one tensor. 4 bytes of memory a row (its cosine, kept for the percentile).
class ErrorStats {
 public:
  /// Adds one row; x and x_hat have the same length, at least 1, in any unit.
  /// Throws Error, and adds nothing, if the lengths differ or are 0, or a value is NaN or infinite.
  void add_row(std::span<const float> x, std::span<const float> x_hat);

  /// Adds `rows` rows of `dim` values, both tensors row-major [rows, dim]. Throws as add_row does,
  /// and for a negative `rows` or a `dim` below 1; the rows before a refused one have been added.
  void add_rows(const float* x, const float* x_hat, std::int64_t rows, int dim);

  /// Adds rows of `dim` values by their sums, as Backend::compare() makes them. Throws as add_rows does.
  void add_sums(std::span<const RowSums> rows, int dim);

  /// Adds what `other` saw, as if its rows had come after these. Counts, percentile, minimum and
  /// worst row are the same however the rows were grouped; sums agree to rounding, so merge in a
  /// fixed order where bytes must repeat.
  void merge(const ErrorStats& other);

  std::int64_t rows() const { return static_cast<std::int64_t>(cosines_.size()); }
  std::int64_t values() const { return values_; }  ///< rows times their length

  double x_energy() const { return x_energy_; }          ///< sum |x|^2
  double x_hat_energy() const { return x_hat_energy_; }  ///< sum |x_hat|^2
  double error_energy() const { return error_energy_; }  ///< sum |x - x_hat|^2

  /// sum |x - x_hat|^2 / sum |x|^2: the paper's D_mse (section 1), each row weighing as its energy.
  /// Finite, >= 0; zeros in place of x give exactly 1. If every x is zero: 0 when every x_hat is
  /// zero too, else 1 (all of it is error).
  double relative_mse() const;

  /// sum <x, x_hat> / sqrt(sum |x|^2 sum |x_hat|^2): one cosine over the whole tensor. It hides
  /// rows; see cosine_p1.
  double cosine_flattened() const;

  /// mean over rows of <x, x_hat> / (|x| |x_hat|); zero rows as in cosine_from_sums.
  double cosine_mean() const;
  double cosine_p1() const;   ///< 1st percentile over rows, nearest rank, to float precision
  double cosine_min() const;  ///< the lowest cosine of a row, to float precision

  /// The row with the lowest cosine, from 0 in the order added; the first of equals; -1 when there
  /// are no rows.
  std::int64_t worst_row() const;

  /// mean over rows with |x| > 0 of |x_hat| / |x|, less 1. Negative: reconstructions are too short.
  /// The cosine cannot see this. NaN when no row has |x| > 0.
  double norm_bias() const;

  /// 0.5 log2(relative_mse 4^bits): the bits that a quantizer of `bits` bits a value wastes against
  /// Shannon's lower bound D >= 4^-bits (paper, Theorem 3). 0 is the bound; 0.270 is the 1-bit
  /// Lloyd-Max codebook of a Gaussian. Minus infinity when the reconstruction is exact.
  double bits_lost_to_shannon(double bits) const;

 private:
  std::int64_t values_ = 0;
  std::int64_t rows_with_norm_ = 0;
  double x_energy_ = 0;
  double x_hat_energy_ = 0;
  double error_energy_ = 0;
  double dot_ = 0;
  double cosine_sum_ = 0;
  double norm_ratio_sum_ = 0;
  std::vector<float> cosines_;
};

}  // namespace tq
