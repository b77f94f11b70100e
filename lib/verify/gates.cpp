#include "lib/verify/gates.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "lib/codebook.h"

namespace tq {
namespace {

constexpr double kLargestSlopeError = 0.05;

/// What a gate looks at. `control` >= 0 puts that control in the place of the part.
struct Quantity {
  std::string name;
  bool at_least;
  std::string_view parts;  ///< "kv", "k" or "v"; that of a layer's attention under K is "k": the softmax does not see V
  std::function<std::optional<double>(const Measurement&, char part, int control)> value;
};

const PartNumbers& part_of(const Measurement& m, char part) { return part == 'k' ? m.k : m.v; }

/// A codec metric: `actual` reads PartNumbers, `controlled` reads ControlNumbers.
template <class Actual, class Controlled>
Quantity codec_quantity(std::string name, bool at_least, Actual actual, Controlled controlled) {
  return {std::move(name), at_least, "kv", [=](const Measurement& m, char part, int control) -> std::optional<double> {
            const PartNumbers& numbers = part_of(m, part);
            if (control < 0) return actual(numbers);
            const auto& found = numbers.controls[static_cast<std::size_t>(control)];
            return found ? std::optional<double>(controlled(*found, numbers)) : std::nullopt;
          }};
}

/// A property of the codec in use, which no control can take the place of.
template <class Actual>
Quantity fixed_quantity(std::string name, Actual actual) {
  return {std::move(name), false, "kv", [=](const Measurement& m, char part, int control) -> std::optional<double> {
            return control < 0 ? actual(part_of(m, part)) : std::nullopt;
          }};
}

Quantity attention_quantity(std::string name, bool at_least, double AttentionNumbers::*field) {
  return {std::move(name), at_least, "k", [=](const Measurement& m, char, int control) -> std::optional<double> {
            const auto& found = control < 0 ? m.attention : m.k_control_attention[static_cast<std::size_t>(control)];
            return found ? std::optional<double>((*found).*field) : std::nullopt;
          }};
}

/// Distance of the estimator's slope from 1. Without a sketch the slope is 0.
std::optional<double> slope_error(const Measurement& m, char part, int control) {
  const PartNumbers& n = part_of(m, part);
  if (std::isnan(n.qjl_slope)) return std::nullopt;
  if (control < 0) return std::abs(n.qjl_slope - 1.0);
  switch (static_cast<Control>(control)) {
    case Control::kZeros: return 1.0;
    case Control::kOtherSeed: return std::abs(n.qjl_slope_other_seed - 1.0);
    default: return std::nullopt;
  }
}

bool passes(const GateReport& gate, double value) { return gate.at_least ? value >= gate.limit : value <= gate.limit; }

/// NaN, which stands for "not measured", is worse than anything.
bool is_worse(bool at_least, double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && !std::isnan(b);
  return at_least ? a < b : a > b;
}

/// The worst value over layers and parts.
struct Worst {
  double value = std::numeric_limits<double>::quiet_NaN();
  int layer = 0;
  char part = ' ';
  bool found = false;  ///< there was anything to measure
};

Worst find_worst(const std::vector<LayerReport>& layers, const Quantity& q) {
  Worst worst;
  for (const LayerReport& layer : layers) {
    for (const char part : q.parts) {
      const std::optional<double> value = q.value(layer.all, part, -1);
      if (!value || (worst.found && !is_worse(q.at_least, *value, worst.value))) continue;
      worst = {*value, layer.index, part, true};
    }
  }
  return worst;
}

/// The gate's value in the layer that notices the control least; nothing where the control applies nowhere.
std::optional<double> least_noticed(const std::vector<LayerReport>& layers, const Quantity& q, char part, int control) {
  std::optional<double> least;
  for (const LayerReport& layer : layers) {
    const std::optional<double> value = q.value(layer.all, part, control);
    if (value && (!least || is_worse(q.at_least, *least, *value))) least = value;
  }
  return least;
}

GateReport judge_one(const std::vector<LayerReport>& layers, const Quantity& q, double limit) {
  GateReport gate;
  gate.name = q.name;
  gate.at_least = q.at_least;
  gate.limit = limit;
  const Worst actual = find_worst(layers, q);
  gate.value = actual.value;
  gate.worst_layer = actual.layer;
  gate.worst_part = actual.part;
  gate.measured = actual.found && !std::isnan(actual.value);
  gate.passed = passes(gate, actual.value);
  for (const char part : q.parts) {
    for (int control = 0; control < kControls; ++control) {
      const std::optional<double> value = least_noticed(layers, q, part, control);
      if (!value) continue;
      const bool passed = passes(gate, *value);
      gate.controls.push_back({part, static_cast<Control>(control), *value, passed});
      gate.sensitive = gate.sensitive && !passed;
    }
  }
  return gate;
}

}  // namespace

std::string_view name_of(Control control) {
  constexpr std::string_view kNames[kControls] = {"zeros", "other_seed", "permuted_tokens", "one_bit"};
  return kNames[static_cast<std::size_t>(control)];
}

std::string_view name_of(Verdict verdict) {
  constexpr std::string_view kNames[] = {"PASS", "FAIL", "NOT_MEASURED"};
  return kNames[static_cast<std::size_t>(verdict)];
}

double default_threshold(const std::vector<LayerReport>& layers, std::string_view parts) {
  constexpr double kPublished = 0.99;
  constexpr int kBitsForPublished = 4;
  constexpr double kRoom = 0.005;
  double threshold = kPublished;
  for (const LayerReport& layer : layers) {
    int bits = kBitsForPublished;
    for (const char part : parts) bits = std::min(bits, part_of(layer.all, part).bits);
    if (bits >= kBitsForPublished) continue;
    for (const char part : parts) {
      const PartNumbers& numbers = part_of(layer.all, part);
      if (numbers.bits == bits) threshold = std::min(threshold, numbers.ideal_cosine - kRoom);
    }
  }
  return threshold;
}

std::vector<GateReport> judge(const std::vector<LayerReport>& layers, const GateOptions& options) {
  std::vector<GateReport> gates;
  const auto add = [&](const Quantity& quantity, std::optional<double> limit) {
    if (limit) gates.push_back(judge_one(layers, quantity, *limit));
  };
  const bool has_sketch = std::any_of(layers.begin(), layers.end(), [](const LayerReport& layer) { return std::isfinite(layer.all.k.qjl_slope); });
  const Quantity cosine =
      codec_quantity("threshold", true, [](const PartNumbers& n) { return n.cosine_flattened; },
                     [](const ControlNumbers& c, const PartNumbers&) { return c.cosine_flattened; });
  const auto add_cosine = [&](std::string name, std::string_view parts) {
    Quantity quantity = cosine;
    quantity.name = std::move(name);
    quantity.parts = parts;
    add(quantity, options.threshold.value_or(default_threshold(layers, parts)));
  };
  if (has_sketch && !options.threshold) {  // the codes of K alone, a bit narrower: their limit would be blind to faults of V
    add_cosine("threshold", "v");
    add_cosine("threshold-keys", "k");
  } else {
    add_cosine("threshold", "kv");
  }
  const auto has_codebook = [](const LayerReport& layer) { return !std::isnan(layer.all.k.codebook_bound) || !std::isnan(layer.all.v.codebook_bound); };
  if (layers.empty() || std::any_of(layers.begin(), layers.end(), has_codebook)) {
    add(fixed_quantity("codebook-bound",
                       [](const PartNumbers& n) { return std::isnan(n.codebook_bound) ? std::nullopt : std::optional(n.codebook_bound); }),
        1.0);
  }
  if (has_sketch) {
    add({"qjl-slope", false, "k", slope_error}, kLargestSlopeError);
  }
  add(codec_quantity("min-token-cosine", true, [](const PartNumbers& n) { return n.cosine_min; },
                     [](const ControlNumbers& c, const PartNumbers&) { return c.cosine_min; }),
      options.min_token_cosine);
  Quantity mse_ratio = codec_quantity("max-rel-mse-ratio", false, [](const PartNumbers& n) { return n.mse_ratio; },
                                      [](const ControlNumbers& c, const PartNumbers& n) { return c.relative_mse / n.expected_mse; });
  mse_ratio.value = [value = mse_ratio.value](const Measurement& m, char part, int control) {
    return part_of(m, part).expected_mse > 0 ? value(m, part, control) : std::nullopt;  // else theory says nothing
  };
  add(mse_ratio, options.max_rel_mse_ratio);
  add(attention_quantity("max-attention-kl", false, &AttentionNumbers::kl_mean), options.max_attention_kl);
  add(attention_quantity("min-attention-top1", true, &AttentionNumbers::top1_agreement), options.min_attention_top1);
  return gates;
}

Verdict overall_verdict(const std::vector<GateReport>& gates) {
  const auto failed = [](const GateReport& gate) { return gate.measured && !gate.passed; };
  const auto insensitive = [](const GateReport& gate) { return !gate.measured || !gate.sensitive; };
  if (std::any_of(gates.begin(), gates.end(), failed)) return Verdict::kFail;
  if (std::any_of(gates.begin(), gates.end(), insensitive)) return Verdict::kNotMeasured;
  return Verdict::kPass;
}

}  // namespace tq
