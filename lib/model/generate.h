// Greedy decoding: the most likely token, again and again.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/model/prefill.h"

namespace tq {

/// The `tokens` tokens that follow `prompt`, each the one with the largest logit (of equal ones the first) after those before
/// it, step by step over a cache of float32 keys and values. With a hook, the decoding of the compressed cache, if its round
/// trip of a row does not depend on other rows. An end-of-text token is one like any other. Error as prefill(), and where
/// prompt and tokens together leave the context.
std::vector<std::int32_t> generate_greedily(const Model& model, std::span<const std::int32_t> prompt, std::int64_t tokens,
                                            const PrefillOptions& options);

}  // namespace tq
