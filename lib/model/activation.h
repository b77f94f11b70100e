// Activations of an MLP, one value at a time, for the CPU and for kernels: float32 as the published models compute them.
#pragma once

#include <cmath>

#include "lib/math/lanes.h"

namespace tq {

enum class Activation { kSilu, kGelu, kGeluTanh, kRelu };

TQ_HD float activate(Activation activation, float x) {
  constexpr float kRootTwoOverPi = 0.7978845608028654f;
  constexpr float kRootTwo = 1.41421356237309504880f;
  switch (activation) {
    case Activation::kSilu: return x / (1.0f + std::exp(-x));
    case Activation::kGelu: return 0.5f * x * (1.0f + std::erf(x / kRootTwo));
    case Activation::kGeluTanh: return 0.5f * x * (1.0f + std::tanh(kRootTwoOverPi * (x + 0.044715f * x * x * x)));
    case Activation::kRelu: return x < 0.0f ? 0.0f : x;
  }
  return x;
}

/// What gpt-oss has in the place of a gated activation. (NaN passes through both.)
TQ_HD float activate_clamped(float gate, float up, float limit, float alpha) {
  const float g = limit < gate ? limit : gate;
  const float u = up < -limit ? -limit : up > limit ? limit : up;
  return (u + 1.0f) * g / (1.0f + std::exp(-g * alpha));
}

}  // namespace tq
