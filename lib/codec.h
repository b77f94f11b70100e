// A Scheme with its tables made or read: everything that a backend needs to code rows.
#pragma once

#include <string>
#include <vector>

#include "lib/codebook.h"
#include "lib/rotation.h"
#include "lib/scheme.h"

namespace tq {

class Codec {
 public:
  /// Makes the tables from the scheme. Throws Error for a codebook id that names no table of this dim and width.
  explicit Codec(const Scheme& scheme);
  /// Takes the tables that a file carries. `matrix` is empty where the rotation needs none, `sketch` where the scheme has
  /// no QJL; `where` begins the message of the Error thrown when a table does not fit the scheme.
  Codec(const Scheme& scheme, const Codebook& codebook, std::vector<float> matrix, std::vector<float> sketch,
        const std::string& where);

  const Scheme& scheme() const { return scheme_; }
  const Codebook& codebook() const { return codebook_; }
  const Rotation& rotation() const { return rotation_; }
  /// S of the QJL sketch [dim][dim], row-major; empty where the scheme has none.
  const std::vector<float>& sketch_matrix() const { return sketch_; }
  /// Whether an encoder divides rows by their norm before it rotates them (lib/math/row.h): with the tables of native TQ3.
  bool divides_first() const { return scheme_.codebook.starts_with("vj-"); }
  /// D: relative MSE of a unit vector, uniform on the sphere, under this codebook and norm mode, without the sketch.
  /// Raw norms: exact, by quadrature. Else by expected_distortion(), to about 0.05 %.
  double distortion() const { return distortion_; }
  /// The same with another seed, for measuring over rotations and for negative controls.
  Codec with_seed(std::uint32_t seed) const;
  /// The same rotation and table without a QJL sketch, with float32 norms: what is measured beside the scheme.
  Codec plain() const;
  /// The same with the sketch matrix of another seed; for a scheme that has one.
  Codec with_sketch_seed(std::uint32_t seed) const;
  /// The same for an encoder that takes more trouble: 0 codes each value with the nearest level, 1..3 search each row's
  /// scale (lib/math/scale_search.h). A decoder sees no difference, and distortion() stays that of effort 0. Error unless
  /// effort is 0..3, and for 1..3 the scheme's norms are least-squares.
  Codec with_effort(int effort) const;
  int effort() const { return effort_; }

 private:
  Scheme scheme_;
  Codebook codebook_;
  Rotation rotation_;
  std::vector<float> sketch_;
  double distortion_;
  int effort_ = 0;
};

/// S of a sketch: draw_normals(seed, dim * dim), row-major, in float32.
std::vector<float> make_sketch_matrix(std::uint32_t seed, int dim);

/// Relative MSE of a unit vector, uniform on the sphere, under a norm mode, and the standard error of that figure.
struct ExpectedDistortion {
  double value;
  double standard_error;  ///< 0 where the value is exact
};

/// Raw: table_distortion(), exact. Corrected and least-squares are ratios of sums over a row, for which there is no
/// one-dimensional integral: seeded simulation of max(512, 2^20 / dim) rows in double, of the difference to the raw mode
/// (a control variate), added to the raw mode's exact value.
ExpectedDistortion expected_distortion(const Codebook& codebook, int dim, NormMode mode);

}  // namespace tq
