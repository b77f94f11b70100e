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
  /// Takes the tables that a file carries. `matrix` is empty where the rotation needs none; `where` begins the message
  /// of the Error thrown when a table does not fit the scheme.
  Codec(const Scheme& scheme, const Codebook& codebook, std::vector<float> matrix, const std::string& where);

  const Scheme& scheme() const { return scheme_; }
  const Codebook& codebook() const { return codebook_; }
  const Rotation& rotation() const { return rotation_; }
  /// D: relative MSE of a unit vector, uniform on the sphere, under this codebook (exact, by quadrature).
  double distortion() const { return distortion_; }
  /// The same with another seed, for measuring over rotations and for negative controls.
  Codec with_seed(std::uint32_t seed) const;

 private:
  Scheme scheme_;
  Codebook codebook_;
  Rotation rotation_;
  double distortion_;
};

}  // namespace tq
