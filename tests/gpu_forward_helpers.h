// What tests/gpu_forward.cpp counts, draws and writes.
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "lib/convert.h"
#include "lib/io/safetensors.h"

namespace tq {

using Floats = std::vector<float>;

struct Tally {
  int cases = 0, failures = 0;
  double worst = 0;
  void add(const std::string& name, double error, double most) {
    ++cases;
    worst = std::max(worst, error);
    if (error <= most) return;
    ++failures;
    fmt::print("  {}: differs by {:.3g}, and {:.3g} is allowed\n", name, error, most);
  }
  /// What must be noticed.
  void add_control(const std::string& name, double error, double most) {
    ++cases;
    if (error > 3 * most) return;
    ++failures;
    fmt::print("  {}: a control that differs by {:.3g} only\n", name, error);
  }
};

inline Floats gauss(std::int64_t count, std::uint32_t seed, float scale = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, scale);
  Floats out(static_cast<std::size_t>(count));
  for (float& x : out) x = normal(generator);
  return out;
}

/// RMS of the difference over the RMS of a; infinity where one side is not finite.
inline double difference(std::span<const float> a, std::span<const float> b) {
  double error = 0, energy = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    error += d * d;
    energy += static_cast<double>(a[i]) * static_cast<double>(a[i]);
  }
  const double found = std::sqrt(error / energy);
  return a.size() == b.size() && std::isfinite(found) ? found : INFINITY;
}

// ---- Weights in a file, so that all of the reading is in the test.

struct TensorCase {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;
};

inline std::string write_weights(const std::vector<TensorCase>& tensors, std::uint32_t seed = 100) {
  const std::string path = std::filesystem::temp_directory_path() / fmt::format("gpu_forward.{}.safetensors", ::getpid());
  std::vector<TensorSpec> specs;
  for (const TensorCase& t : tensors) specs.push_back({t.name, t.dtype, t.shape});
  SafetensorsWriter writer(specs);
  writer.create(path, true);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    std::int64_t count = 1;
    for (const std::int64_t n : tensors[i].shape) count *= n;
    const Floats values = gauss(count, static_cast<std::uint32_t>(i) + seed, 0.1f);
    std::vector<std::byte> bytes(static_cast<std::size_t>(count) * size_of(tensors[i].dtype));
    convert_from_float(values.data(), count, tensors[i].dtype, bytes.data());
    writer.write(i, 0, bytes);
  }
  writer.commit();
  return path;
}

/// x with some values far from the others, as activations have.
inline Floats draw_x(std::int64_t count, std::uint32_t seed) {
  Floats x = gauss(count, seed);
  for (std::size_t i = 0; i < x.size(); i += 97) x[i] *= 50;
  return x;
}

inline Floats with_bf16_x(Floats x) {
  std::vector<std::uint16_t> halves(x.size());
  convert_from_float(x.data(), static_cast<std::int64_t>(x.size()), DType::kBf16, halves.data());
  convert_to_float(DType::kBf16, halves.data(), static_cast<std::int64_t>(x.size()), x.data());
  return x;
}

}  // namespace tq
