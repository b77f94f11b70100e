// What Backend::compare() finds of one row, and ErrorStats adds up.
#pragma once

namespace tq {

/// Sums over one row, in double. Squares of finite floats cannot overflow a double, so a sum is finite exactly when the values are.
struct RowSums {
  double dot = 0;           ///< <x, x_hat>
  double x_energy = 0;      ///< |x|^2
  double x_hat_energy = 0;  ///< |x_hat|^2
  double error_energy = 0;  ///< |x - x_hat|^2
};
static_assert(sizeof(RowSums) == 32);

}  // namespace tq
