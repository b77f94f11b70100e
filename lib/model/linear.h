// Linear maps with weights that are read as they are needed: blocks of rows become float32 in a
// buffer that a core's cache holds, and are multiplied at once. Memory beside x and y: one such
// buffer, of a few MB, a thread.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "lib/model/forward_device.h"

namespace tq {

/// What every part of a forward pass needs.
struct RunContext {
  const WeightReader* reader = nullptr;
  int threads = 1;
  Progress progress;  ///< told of weights, in stored bytes, once per tensor and pass
  ForwardDevice* device = nullptr;  ///< does the products; nullptr: the CPU
};

/// Runs all tasks at once: on the CPU, cut into blocks of rows. Tasks must not overlap in y.
void run_linear(const RunContext& context, std::span<const LinearTask> tasks);

/// x [tokens][in] -> [tokens][out], both contiguous.
std::vector<float> apply_linear(const RunContext& context, const Matrix& matrix, std::span<const float> x,
                                std::int64_t tokens);

/// The same into y, which is resized.
void apply_linear(const RunContext& context, const Matrix& matrix, std::span<const float> x, std::int64_t tokens,
                  std::vector<float>& y);

/// Stored bytes of `elements` of a tensor's values, as progress counts them.
std::uint64_t stored_bytes(const WeightTensor& tensor, std::int64_t elements);

/// One row of a tensor (its last dimension; all of a vector) as float32.
std::vector<float> read_vector(const WeightReader& reader, const WeightTensor& tensor, std::int64_t row = 0);

}  // namespace tq
