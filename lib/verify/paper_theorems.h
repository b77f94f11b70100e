// The theorems of arXiv 2504.19874 (Zandieh, Daliri, Hadian, Mirrokni: TurboQuant), measured. b is the bits of a value, d the
// length of a row, x a unit vector, x_hat what comes back.
//
//   Theorem 1  D_mse = E |x - x_hat|^2 <= sqrt(3) pi/2 4^-b. Under the codebook in use D is known exactly, by quadrature over
//              the density of a coordinate (table_distortion() in lib/codebook.h). The paper prints 0.36, 0.117, 0.03 and 0.009
//              for b = 1..4; 0.03 is a rounding of 0.034.
//   Theorem 2  D_prod = E |<y, x> - <y, x_hat>|^2 <= sqrt(3) pi^2 |y|^2 / d 4^-b, and E <y, x_hat> = <y, x>, of TurboQuant_prod:
//              codes of b - 1 bits and a sketch of the residual r. More exactly, over Gaussian sketches, and rows without a
//              direction: d D_prod / |y|^2 = (pi/2 - 1/d) D_mse(b - 1). The paper prints 1.57/d, 0.56/d, 0.18/d and 0.047/d.
//   Theorem 3  no quantizer of b bits a value has D_mse below 4^-b, nor D_prod below |y|^2 / d 4^-b, on rows that are uniform on
//              the sphere. A measurement below it is wrong.
//   QJL        sqrt(pi/2) / d <S y, sign(S x)> is unbiased, with a variance of at most pi/2 |y|^2 / d;
//              exactly (pi/2 |y|^2 - <x, y>^2) / d.
//
// A mean of errors that are zero in expectation shows no bias, whatever the estimator. So unbiasedness is a slope: that of
// <y, x_hat> on <y, x>, over queries with a cosine of 0.8 to their row; 1 with an unbiased estimator, and 1 - D_mse with the
// codes alone. Each cluster of rows has a rotation and a sketch of its own: the theorems are expectations over both.
#pragma once

#include "lib/verify/paper_subject.h"

namespace tq {

/// Relative MSE of rows that are uniform on the sphere, under rht2 with a fresh seed for each cluster.
Estimate measure_mse(const Backend& backend, const PaperSubject& subject, int dim, int bits,
                     const PaperSettings& settings);

/// Relative MSE of 16 rows with one loud channel, over settings.rows / 512 Haar rotations: Theorem 1 promises it of every row.
Estimate measure_mse_of_spikes(const Backend& backend, const PaperSubject& subject, int dim,
                               int bits, const PaperSettings& settings);

/// Of an estimator of inner products.
struct InnerProducts {
  Estimate slope;     ///< of <y, x_hat> on <y, x>, y at a cosine of 0.8 to x
  Estimate variance;  ///< d / |y|^2 E (<y, x> - <y, x_hat>)^2, y independent of x
};

/// TurboQuant_prod of `bits` bits, 2..8: codes of one bit less, and the sketch.
InnerProducts measure_prod(const Backend& backend, const PaperSubject& subject, int dim, int bits,
                           const PaperSettings& settings);
/// The sketch alone, of the rows themselves.
InnerProducts measure_qjl(const Backend& backend, const PaperSubject& subject, int dim,
                          const PaperSettings& settings);

/// The checks of one dim and width, each with its control. Theorems 1 and 3 for bits 1..8; Theorem 2 for 2..8; at 1 bit its
/// place is taken by QJL alone, which is TurboQuant_prod without codes.
std::vector<PaperCheck> check_theorems(const Backend& backend, const PaperSubject& subject, int dim,
                                       int bits, const PaperSettings& settings);

}  // namespace tq
