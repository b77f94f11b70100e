// The rotation Pi of a scheme, made from its seed: sign vectors and, where the Hadamard matrix is not Sylvester's, a
// matrix. The streams are those of the published systems (torch's CPU generator), so that their files and ours agree.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/math/rotation.h"
#include "lib/scheme.h"

namespace tq {

/// `count` signs from MT19937 seeded with `seed`: one 32-bit output each, sign bit set (-1) where the output is even.
/// `skip` outputs are passed over first: rht2 draws s1 and then s2 from one stream.
std::vector<std::uint32_t> draw_sign_bits(std::uint32_t seed, int count, int skip = 0);

/// torch.randn(count) of the CPU generator, count >= 16, to about 1e-6: Box-Muller on 24-bit uniforms in blocks of 16.
std::vector<double> draw_normals(std::uint32_t seed, int count);

/// Order of the factor H_m for rows of `dim`: dim = m 2^k with m = 1 (a power of two), 12, 20, 28 or 36; else 0.
int hadamard_order(int dim);

/// H_m of +-1, row-major [m][m], H_m H_m^T = m I. m = 12 and 20: Paley's first construction over the residues mod 11 and
/// 19; m = 28 and 36: Paley's second over those mod 13 and 17.
std::vector<float> paley_matrix(int m);

/// Haar-distributed orthogonal matrix [dim][dim], row-major: Q of a Householder QR (double) of draw_normals(seed), each
/// column multiplied with the sign of R's diagonal.
std::vector<float> haar_matrix(std::uint32_t seed, int dim);

class Rotation {
 public:
  /// Makes the tables of a scheme's rotation. dim 8..1024. rht2 and rht1 at a dim without a Hadamard matrix are qr.
  Rotation(RotationKind kind, std::uint32_t seed, int dim);
  /// The same, with the matrix taken from a file: [m][m] of +-1 or [dim][dim]. Throws Error (prefixed with `where`) if it
  /// is not orthogonal to 1e-4, or has the wrong size. Empty: the rotation needs none.
  Rotation(RotationKind kind, std::uint32_t seed, int dim, std::vector<float> matrix, const std::string& where);

  /// What a file must carry: H_m or the dense matrix; empty where there is none (Sylvester's, and the identity).
  const std::vector<float>& matrix() const { return matrix_; }
  /// Rows (= columns) of matrix(), 0 where there is none.
  int matrix_order() const;
  /// Pointers into this object: valid while it lives and is not moved from.
  math::RotationView view() const;

 private:
  struct WithoutMatrix {};
  Rotation(RotationKind kind, std::uint32_t seed, int dim, WithoutMatrix);

  int dim_;
  int m_ = 1;
  math::Mixing mixing_;
  std::vector<std::uint32_t> signs1_, signs2_;
  std::vector<float> matrix_;
};

/// True where the rotation needs a dense matrix: qr, and rht2 or rht1 at a dim that is no m 2^k.
bool is_dense(RotationKind kind, int dim);

}  // namespace tq
