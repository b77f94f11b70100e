#include <algorithm>
#include <cmath>
#include <numeric>

#include "lib/model/layer_parts.h"
#include "lib/model/ops.h"

namespace tq {
namespace {

using Floats = std::vector<float>;

/// Tokens that go through an MLP at once, on the CPU and on a device; weights are read again for each such block.
constexpr std::int64_t kBlockTokens = 1024;
constexpr std::int64_t kDeviceTokens = 8192;

std::int64_t width_of(const MlpLayout& mlp) { return mlp.down.in; }

MlpRule rule_of(const ModelConfig& config) {
  if (!config.moe) return {config.activation, 0, 0};
  return {config.activation, static_cast<float>(config.moe->swiglu_limit), static_cast<float>(config.moe->swiglu_alpha)};
}

/// Runs MLPs side by side: all first products at once, then all second ones.
void run_mlps(const LayerInput& in, std::span<const MlpTask> tasks) {
  const MlpRule rule = rule_of(in.config);
  const RunContext& context = in.context;
  if (context.device != nullptr) return context.device->run_mlps({context.reader, context.threads, context.progress}, rule, tasks);
  std::vector<Floats> gates(tasks.size()), ups(tasks.size());
  std::vector<LinearTask> first, second;
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    const MlpLayout& mlp = *tasks[i].mlp;
    const auto add = [&](const Matrix& m, Floats& y) {
      y.resize(static_cast<std::size_t>(tasks[i].tokens * m.out));
      first.push_back({&m, tasks[i].x, m.in, tasks[i].tokens, y.data(), m.out});
    };
    if (mlp.gate) add(mlp.gate, gates[i]);
    if (mlp.fused) add(mlp.fused, gates[i]);
    if (mlp.up) add(mlp.up, ups[i]);
    if (mlp.fused) ups[i].resize(static_cast<std::size_t>(tasks[i].tokens * width_of(mlp)));
    second.push_back({&mlp.down, ups[i].data(), mlp.down.in, tasks[i].tokens, tasks[i].y, mlp.down.out});
  }
  run_linear(in.context, first);
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    const MlpLayout& mlp = *tasks[i].mlp;
    const std::int64_t width = width_of(mlp);
    parallel_for(in.context.threads, tasks[i].tokens, [&](std::int64_t t) {
      float* up = ups[i].data() + t * width;
      const float* both = mlp.fused ? gates[i].data() + t * 2 * width : nullptr;
      const float* gate = mlp.gate ? gates[i].data() + t * width : nullptr;
      for (std::int64_t c = 0; c < width; ++c) {
        up[c] = both != nullptr   ? activate_clamped(both[2 * c], both[2 * c + 1], rule.limit, rule.alpha)
                : gate != nullptr ? activate(rule.activation, gate[c]) * up[c]
                                  : activate(rule.activation, up[c]);
      }
    });
  }
  run_linear(in.context, second);
}

struct Choice {
  std::int64_t expert;
  float weight;
};

/// The `count` largest of scores, largest first; of equals the first.
std::vector<std::int64_t> top(std::span<const float> scores, std::int64_t count) {
  std::vector<std::int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](std::int64_t a, std::int64_t b) {
    const float x = scores[static_cast<std::size_t>(a)], y = scores[static_cast<std::size_t>(b)];
    return x > y || (x == y && a < b);
  });
  order.resize(static_cast<std::size_t>(count));
  return order;
}

void softmax(std::span<float> x) {
  const float most = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (float& value : x) {
    value = std::exp(value - most);
    sum += static_cast<double>(value);
  }
  for (float& value : x) value = static_cast<float>(static_cast<double>(value) / sum);
}

/// Puts `masked` in the place of the scores of all groups but the best `groups_used`. A group is worth the sum of its
/// `members` largest.
void mask_groups(const MoeConfig& moe, std::int64_t members, float masked, std::span<float> scores) {
  if (moe.groups == moe.groups_used) return;
  const std::int64_t size = moe.experts / moe.groups;
  Floats worth;
  for (std::int64_t g = 0; g < moe.groups; ++g) {
    const auto group = scores.subspan(static_cast<std::size_t>(g * size), static_cast<std::size_t>(size));
    float sum = 0;
    for (const std::int64_t member : top(group, members)) sum += group[static_cast<std::size_t>(member)];
    worth.push_back(sum);
  }
  const std::vector<std::int64_t> used = top(worth, moe.groups_used);
  for (std::int64_t g = 0; g < moe.groups; ++g) {
    if (std::find(used.begin(), used.end(), g) != used.end()) continue;
    std::fill_n(scores.begin() + g * size, size, masked);
  }
}

std::vector<Choice> choose_experts(const LayerInput& in, std::span<const float> logits, std::span<const float> correction) {
  const MoeConfig& moe = *in.config.moe;
  const Router router = in.config.family->moe->router;
  Floats scores(logits.begin(), logits.end());
  Floats ranks;
  switch (router) {
    case Router::kSoftmaxThenTopK:
    case Router::kGroupedSoftmax:
      softmax(scores);
      if (router == Router::kGroupedSoftmax) mask_groups(moe, 1, 0.0f, scores);
      ranks = scores;
      break;
    case Router::kTopKThenSoftmax: ranks = scores; break;
    case Router::kGroupedSigmoid:
      for (float& score : scores) score = 1.0f / (1.0f + std::exp(-score));
      ranks = scores;
      for (std::size_t i = 0; i < ranks.size(); ++i) ranks[i] += correction[i];
      mask_groups(moe, 2, -INFINITY, ranks);
      break;
  }
  const std::vector<std::int64_t> chosen = top(ranks, moe.per_token);
  Floats weights;
  for (const std::int64_t expert : chosen) weights.push_back(scores[static_cast<std::size_t>(expert)]);
  if (router == Router::kTopKThenSoftmax) softmax(weights);
  float scale = static_cast<float>(moe.scale);
  if (moe.renormalize) {
    const float sum = std::accumulate(weights.begin(), weights.end(), 0.0f);
    scale /= router == Router::kGroupedSigmoid ? sum + 1e-20f : sum;
  }
  std::vector<Choice> choices;
  for (std::size_t i = 0; i < chosen.size(); ++i) choices.push_back({chosen[i], weights[i] * scale});
  return choices;
}

/// The tokens of one expert, gathered.
struct ExpertBatch {
  std::vector<std::int64_t> tokens;
  Floats weights, x, y;
};

std::vector<ExpertBatch> route(const LayerInput& in, std::span<const float> x, std::int64_t tokens) {
  const MoeLayout& moe = *in.layout.moe;
  const std::int64_t hidden = in.config.hidden, experts = in.config.moe->experts;
  const Floats logits = apply_linear(in.context, moe.router, x, tokens);
  const Floats correction = moe.correction == nullptr ? Floats() : read_vector(*in.context.reader, *moe.correction);
  std::vector<ExpertBatch> batches(static_cast<std::size_t>(experts));
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::span<const float> row(logits.data() + t * experts, static_cast<std::size_t>(experts));
    for (const Choice& choice : choose_experts(in, row, correction)) {
      ExpertBatch& batch = batches[static_cast<std::size_t>(choice.expert)];
      batch.tokens.push_back(t);
      batch.weights.push_back(choice.weight);
      batch.x.insert(batch.x.end(), x.begin() + t * hidden, x.begin() + (t + 1) * hidden);
    }
  }
  for (ExpertBatch& batch : batches) batch.y.resize(batch.x.size());
  return batches;
}

void run_experts(const LayerInput& in, std::span<const float> x, std::int64_t tokens, float* out) {
  const MoeLayout& moe = *in.layout.moe;
  const std::int64_t hidden = in.config.hidden;
  std::vector<ExpertBatch> batches = route(in, x, tokens);
  std::vector<MlpTask> tasks;
  for (std::size_t e = 0; e < batches.size(); ++e) {
    ExpertBatch& b = batches[e];
    if (!b.tokens.empty()) tasks.push_back({&moe.experts[e], static_cast<std::int64_t>(b.tokens.size()), b.x.data(), b.y.data()});
  }
  Floats shared, share;
  if (moe.shared) {
    shared.resize(x.size());
    tasks.push_back({&*moe.shared, tokens, x.data(), shared.data()});
    if (moe.shared_gate) share = apply_linear(in.context, moe.shared_gate, x, tokens);
  }
  run_mlps(in, tasks);
  std::fill_n(out, tokens * hidden, 0.0f);
  for (const ExpertBatch& b : batches) {
    for (std::size_t i = 0; i < b.tokens.size(); ++i) {
      float* to = out + b.tokens[i] * hidden;
      const float* from = b.y.data() + static_cast<std::int64_t>(i) * hidden;
      for (std::int64_t c = 0; c < hidden; ++c) to[c] += b.weights[i] * from[c];
    }
  }
  if (!moe.shared) return;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float weight = share.empty() ? 1.0f : 1.0f / (1.0f + std::exp(-share[static_cast<std::size_t>(t)]));
    for (std::int64_t c = t * hidden; c < (t + 1) * hidden; ++c) out[c] += weight * shared[static_cast<std::size_t>(c)];
  }
}

}  // namespace

void run_mlp(const LayerInput& in, std::span<const float> x, std::vector<float>& out) {
  const std::int64_t hidden = in.config.hidden;
  out.resize(x.size());
  const std::int64_t step = in.context.device != nullptr ? kDeviceTokens : kBlockTokens;
  for (std::int64_t first = 0; first < in.tokens; first += step) {
    const std::int64_t tokens = std::min(step, in.tokens - first);
    const auto block = x.subspan(static_cast<std::size_t>(first * hidden), static_cast<std::size_t>(tokens * hidden));
    float* y = out.data() + first * hidden;
    if (in.layout.moe) {
      run_experts(in, block, tokens, y);
    } else {
      const MlpTask task = {&in.layout.mlp, tokens, block.data(), y};
      run_mlps(in, {&task, 1});
    }
  }
}

}  // namespace tq
