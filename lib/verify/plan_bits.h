// Which layers deserve which bits: K and V of each layer apart, from what each costs at each width, measured.
//
// The cost of a part of a layer at b bits, all else exact:
//   of a model  the mean KL of the output, nats: one forward pass a part at 3 bits, and at other widths that times the ratio of
//               the part's measured relative MSE, of which a small KL is a multiple;
//   of a dump   of K the mean KL of its softmax; of V half the squared relative error of the attention output, which is what
//               noise of that energy costs a unit signal.
// Costs of parts are added: the prediction. Bits are given out one at a time, each where it saves most cost a byte; cost falls
// about as 4^-bits, so this greedy choice is that of a Lagrangian. Then the whole is measured.
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lib/verify/compare_schemes.h"

namespace tq {

inline constexpr int kPlanMinBits = 2;

struct PlanOptions {
  KvSchemeOptions scheme;                 ///< all but the bits
  std::optional<double> bytes_per_token;  ///< at most so many, K and V of all layers ...
  std::optional<double> max_kld;          ///< ... or the fewest for which the predicted cost is at most this
  int threads = 1;
  std::int64_t attention_queries = 512;
  MeasureAttention attention = measure_attention;  ///< what measures attention: the CPU, or a device
  std::function<void(std::size_t done, std::size_t all)> progress;  ///< measurements
};

/// Cost of one part at 2..8 bits; [0] is that of 2.
using PartCosts = std::array<double, kMaxBits - kPlanMinBits + 1>;

struct LayerPlan {
  int index = 0;
  PartCosts k_cost{}, v_cost{};
  int k_bits = kPlanMinBits, v_bits = kPlanMinBits;
};

struct PlanReport {
  std::string source;
  std::string metric;          ///< "output KL" or "attention cost"
  std::vector<LayerPlan> layers;
  KvSchemeOptions scheme;      ///< with the bits of each layer
  double predicted = 0;        ///< sum of the costs; of a dump their mean over layers
  SchemeNumbers planned;       ///< measured
  SchemeNumbers uniform;       ///< the widest equal bits for all that take no more bytes, measured; refused where there are none
  double planned_cost = 0, uniform_cost = 0;  ///< the metric, measured
};

/// `effect`: null for a dump. Error: a budget below 2 bits everywhere, or a limit that 8 bits everywhere do not meet, each with
/// the figure that can be had; a dump without queries.
PlanReport plan_bits(const KvSource& source, const ModelEffect* effect, const Backend& backend, const PlanOptions& options);

/// The choice alone. `bytes`: of one bit more of a token, of K and of V, a layer. Returns the bytes a token that are taken.
double allocate_bits(std::vector<LayerPlan>& layers, const std::vector<std::array<PartCosts, 2>>& bytes, const PlanOptions& options,
                     double scale);

std::string format_plan_json(const PlanReport& report);

}  // namespace tq
