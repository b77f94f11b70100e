// What compression does to a model's output, as text for people.
#pragma once

#include <string>

#include "lib/verify/report.h"

namespace tq::cli {

/// The block "Effect on the model".
std::string format_effect(const EffectReport& effect);

}  // namespace tq::cli
