// The fp8 KV cache: a byte a value, OCP e4m3fn (4 bits of exponent with bias 7, 3 of mantissa; no
// infinities, largest 448, smallest 2^-9).
#pragma once

#include <memory>

#include "lib/cache/cache_method.h"

namespace tq {

inline constexpr float kMaxE4m3 = 448.0f;

/// Nearest e4m3fn value, ties to even, subnormals included; beyond 448 it is 448, as vLLM's kernels
/// convert (saturating). x finite.
float round_to_e4m3(float x);

enum class Fp8Scale {
  /// `fp8`: as vLLM stores with --kv-cache-dtype fp8 when the checkpoint brings no scales. Nothing
  /// is divided, so values beyond 448 are cut off and those below 2^-10 are lost.
  kOne,
  /// `fp8:scaled`: one scale for all heads and tokens of a layer's K (V), amax / 448, as calibrated
  /// checkpoints (compressed-tensors) have it: 4 bytes. amax is that of the rows themselves, the
  /// best that a calibration could find.
  kCalibrated,
};

/// x_hat = scale * e4m3(x / scale), in float32. All dims.
std::shared_ptr<const CacheMethod> make_fp8_method(Fp8Scale scale, int dim);

}  // namespace tq
