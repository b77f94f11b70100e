// verify on a model: a reference pass over a text. Then everything that is done with a dump, on the queries, keys and values
// of every layer that is cached in the first window; and a second pass over the whole text, whose attention reads the
// compressed cache, for what that does to the model's output.
#pragma once

#include "lib/verify/effect_gates.h"
#include "lib/verify/model_effect.h"
#include "lib/verify/verify_kv.h"

namespace tq {

struct VerifyModelOptions {
  VerifyOptions verify;
  EffectOptions effect;          ///< but for on_first_window, and threads, which are verify.measure's
  EffectGateOptions effect_gates;
  std::string weights;           ///< a native TQ3 directory whose weights the second pass uses; empty: the model's own
  bool cache = true;             ///< K and V are compressed; false, with `weights` alone: no report on them, and no gates
};

/// Passes over the text, of the reference, the second, and the controls that the gates ask for, in weights as stored:
/// what options.effect.progress is told in all.
std::uint64_t pass_bytes(const Model& model, const TextWindows& text, const VerifyModelOptions& options);

/// Memory: keys and values of all layers in float32 in the first window, and the queries that attention is measured on;
/// and as ModelEffect. Gates on the output are judged with their controls, one pass each: K and V at 1 bit (where the scheme
/// has more), and the right codes read with the rotation of another seed, of the cache (zeros, where the rotation has no
/// seed) and of the weights. Error: as ModelEffect, check_cache(), verify_source() and check_same_model(); `weights` that are not native
/// TQ3.
VerifyReport verify_model(const Model& model, const TextWindows& text, const VerifyModelOptions& options,
                          const Backend& backend);

}  // namespace tq
