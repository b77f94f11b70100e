#include "lib/verify/verify_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <set>
#include <array>

#include "lib/error.h"
#include "lib/model/capture.h"
#include "lib/verify/model_source.h"
#include "lib/verify/scheme_hook.h"

namespace tq {
namespace {

/// Of the tensors that the model has.
std::uint64_t weight_bytes(const Model& model) {
  std::uint64_t bytes = 0;
  for (const WeightReader::Tensor& tensor : model.reader().tensors()) bytes += tensor.stored_bytes;
  return bytes;
}

/// The model that the second pass runs: the reference itself, or packed weights.
class OtherModel {
 public:
  OtherModel(const Model& reference, const std::string& weights) : reference_(reference), dir_(weights) {
    if (dir_.empty()) return;
    packed_.emplace(Model::open(dir_));
    if (packed_->reader().tq3() == nullptr) {
      throw Error(fmt::format("{}: is no native TQ3 checkpoint: it has no {}; tq pack-weights makes one", packed_->dir(),
                              kTq3ConfigName));
    }
    check_same_model(reference_, *packed_);
  }

  const Model& get() const { return packed_ ? *packed_ : reference_; }
  bool is_packed() const { return packed_.has_value(); }
  Model with_other_seed() const { return Model::open(dir_, packed_->reader().tq3()->config().seed + 1); }

 private:
  const Model& reference_;
  std::string dir_;
  std::optional<Model> packed_;
};

/// What stands in the place of the cache, one pass each.
std::vector<Control> cache_controls(const VerifyModelOptions& options) {
  const KvSchemeOptions& scheme = options.verify.scheme;
  if (!options.cache) return {};
  const bool has_seed = scheme.rotation != RotationKind::kIdentity;
  std::vector<Control> controls = {has_seed ? Control::kOtherSeed : Control::kZeros};
  if (std::max(scheme.k_bits, scheme.v_bits) >= 2) controls.push_back(Control::kOneBit);
  return controls;
}

std::vector<EffectControl> run_controls(const ModelEffect& effect, const OtherModel& other, const LayerHook& cache,
                                        const VerifyModelOptions& options, const Backend& backend) {
  std::vector<EffectControl> found;
  for (const Control control : cache_controls(options)) {
    const LayerHook hook = make_scheme_hook(options.verify.scheme, backend, options.verify.measure.threads, control);
    found.push_back({'b', control, effect.compare(other.get(), hook)});
  }
  if (other.is_packed()) found.push_back({'w', Control::kOtherSeed, effect.compare(other.with_other_seed(), cache)});
  return found;
}

void judge_output(VerifyReport& report, const std::vector<EffectControl>& controls, const EffectGateOptions& options) {
  for (GateReport& gate : judge_effect(report.effect->numbers.tokens, controls, options)) {
    for (const GateControl& control : gate.controls) {
      if (!control.passed) continue;
      report.warnings.push_back(fmt::format(
          "--{} {} does not notice {} in the place of {}: it measures nothing here; set a stricter limit or another gate",
          gate.name, gate.limit, name_of(control.control), control.part == 'w' ? "the weights" : "K and V"));
    }
    report.gates.push_back(std::move(gate));
  }
  report.verdict = overall_verdict(report.gates);
  if (report.verdict == Verdict::kFail && report.advice.empty()) advise_on_keys(report);
}

/// Layers of which no head has another scheme than exact rows.
std::vector<int> find_exact_layers(const VerifyReport& report) {
  std::set<int> exact, coded;
  for (const SchemeUse& use : report.schemes) {
    (use.scheme.starts_with("exact/") ? exact : coded).insert(use.layers.begin(), use.layers.end());
  }
  std::vector<int> layers;
  std::set_difference(exact.begin(), exact.end(), coded.begin(), coded.end(), std::back_inserter(layers));
  return layers;
}

/// What is said of K and V, from the first window.
VerifyReport report_cache(const ModelSource& source, const VerifyModelOptions& options, const Backend& backend) {
  VerifyReport report;
  report.backend = backend.name();
  if (!options.cache) return report;
  report = verify_source(source, options.verify, backend);
  for (const SourceLayer& layer : source.layers()) {
    report.dump_bytes += static_cast<std::uint64_t>(layer.kv_heads * layer.tokens * (layer.k_dim + layer.v_dim)) * 2;
  }
  return report;
}

}  // namespace

std::uint64_t pass_bytes(const Model& model, const TextWindows& text, const VerifyModelOptions& options) {
  std::uint64_t passes = 2;
  if (options.effect_gates.any()) passes += cache_controls(options).size() + (options.weights.empty() ? 0 : 1);
  passes *= text.ids.size();
  if (options.effect.greedy > 0) passes += static_cast<std::uint64_t>(options.effect.greedy) + 1;
  return passes * model.layout().layer_bytes;
}

VerifyReport verify_model(const Model& model, const TextWindows& text, const VerifyModelOptions& options,
                          const Backend& backend) {
  if (options.cache) check_cache(model.config(), options.effect.mla_latent);
  const OtherModel other(model, options.weights);
  ModelSource source(model.dir(), options.verify.measure.attention_queries);
  EffectOptions run = options.effect;
  run.threads = options.verify.measure.threads;
  if (options.cache) run.on_first_window = [&](LayerKv& kv) { source.add(kv); };
  const ModelEffect effect(model, text, run);

  const LayerHook cache =
      options.cache ? make_scheme_hook(options.verify.scheme, backend, run.threads) : LayerHook();
  EffectReport found{effect.measure(other.get(), cache), options.cache, options.weights, 0, 0, effect.seconds()};
  if (other.is_packed()) {
    found.weight_bytes = weight_bytes(other.get());
    found.reference_weight_bytes = weight_bytes(model);
  }
  std::vector<EffectControl> controls;
  if (options.effect_gates.any()) controls = run_controls(effect, other, cache, options, backend);

  VerifyReport report = report_cache(source, options, backend);
  report.source_kind = "model";
  report.source_path = model.dir();
  report.effect = std::move(found);
  report.model_numbers = effect.reference();
  report.model_numbers->exact_layers = find_exact_layers(report);
  report.model = report.model_numbers->name;
  judge_output(report, controls, options.effect_gates);
  if (!effect.plausible()) {
    const std::string reference = text.predictions() == 0 ? "there are no predictions"
                                                          : fmt::format("the reference perplexity is {:.4g} over {} predictions",
                                                                        effect.perplexity(), text.predictions());
    report.warnings.push_back(fmt::format("--allow-random: {} (a measurement needs at most {:g} over {}): the numbers say nothing of a "
                                          "trained model", reference, run.max_perplexity, run.min_predictions));
  }
  return report;
}

}  // namespace tq
