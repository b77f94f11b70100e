#include "lib/verify/verify_kv.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "lib/cache/kv_codecs.h"
#include "lib/error.h"

namespace tq {
namespace {

constexpr double kSyntheticMseRatio = 1.1;
/// Above this share, the codes of a key describe the mean of all keys more than the key.
constexpr double kMeanDominates = 0.5;
constexpr std::int64_t kFewestTokensForAMean = 16;  // of one token the mean is all

CodecOf make_codecs(const KvSource& source, const VerifyOptions& options) {
  std::map<int, std::int64_t> heads;
  for (const SourceLayer& layer : source.layers()) heads[layer.index] = layer.kv_heads;
  options.scheme.check_layers(heads, source.name());
  return [&source, codecs = std::make_shared<KvCodecs>(options.scheme)](std::size_t layer, KvPart part, std::int64_t head) {
    const SourceLayer& shape = source.layers()[layer];
    const bool keys = part == KvPart::kKeys;
    return codecs->find(part, {shape.index, layer, source.layers().size()}, head, keys ? shape.k_dim : shape.v_dim,
                        keys ? shape.k_dtype : shape.v_dtype);
  };
}

void check_queries(const KvSource& source, const GateOptions& gates, const std::string& path) {
  if (!gates.max_attention_kl && !gates.min_attention_top1) return;
  for (const SourceLayer& layer : source.layers()) {
    if (layer.query_heads > 0) continue;
    throw Error(fmt::format("{}: layer {} has no queries, and --max-attention-kl and --min-attention-top1 need them; "
                            "capture q.{} as well", path, layer.index, layer.index));
  }
}

void warn_of_keys(VerifyReport& report) {
  std::size_t dominated = 0;
  const LayerReport* worst = nullptr;
  for (const LayerReport& layer : report.layers) {
    if (layer.tokens < kFewestTokensForAMean) continue;
    const double share = layer.all.health.mean_energy_share;
    if (share > kMeanDominates) ++dominated;
    if (worst == nullptr || share > worst->all.health.mean_energy_share) worst = &layer;
  }
  if (dominated == 0) return;
  report.warnings.push_back(fmt::format(
      "in {} of {} layers most of a head's key energy is its mean over tokens (layer {}, head {}: {:.0f} %): the cosine "
      "of K then says little of what attention sees, so look at the softmax KL, and give K more bits if it is large",
      dominated, report.layers.size(), worst->index, worst->all.health.mean_head,
      100.0 * worst->all.health.mean_energy_share));
}

void warn_of_scheme(VerifyReport& report) {
  const auto uses = [&](std::string_view word) {
    return std::any_of(report.schemes.begin(), report.schemes.end(), [&](const SchemeUse& use) { return use.scheme.find(word) != use.scheme.npos; });
  };
  if (uses(" rotation=identity ")) {
    double worst = 0;
    for (const LayerReport& layer : report.layers) worst = std::fmax(worst, std::fmax(layer.all.k.mse_ratio, layer.all.v.mse_ratio));
    report.warnings.push_back(fmt::format(
        "rotation=identity: Theorem 1 does not hold without a random rotation; the worst relative MSE is {:.2f} times what "
        "the same codebook gives rotated rows; use --rotation rht2", worst));
  }
  const bool has_sketch = std::any_of(report.layers.begin(), report.layers.end(),
                                      [](const LayerReport& layer) { return std::isfinite(layer.all.k.qjl_slope); });
  if (has_sketch) {
    report.warnings.push_back("--qjl-keys: codec metrics of K are of the codes alone, attention metrics of the unbiased "
                              "estimator; at equal bits the codes alone with one bit more are better for softmax attention");
  }
}

/// Which scheme stands where, and what it takes.
void describe_schemes(const KvSource& source, const CodecOf& codec_of, VerifyReport& report) {
  std::array<double, 2> bits{};
  std::array<double, 2> values{};
  for (std::size_t i = 0; i < source.layers().size(); ++i) {
    const SourceLayer& layer = source.layers()[i];
    for (const KvPart part : {KvPart::kKeys, KvPart::kValues}) {
      const char letter = part == KvPart::kKeys ? 'k' : 'v';
      for (std::int64_t head = 0; head < layer.kv_heads; ++head) {
        const CacheScheme& scheme = codec_of(i, part, head)->scheme();
        report.packed_bytes += scheme.bytes(1, layer.tokens);
        bits[static_cast<std::size_t>(part)] += scheme.value_bits(1, layer.tokens);
        values[static_cast<std::size_t>(part)] += static_cast<double>(scheme.dim) * static_cast<double>(layer.tokens);
        const std::string text = format_cache_scheme(scheme);
        const auto same = [&](const SchemeUse& use) { return use.part == letter && use.scheme == text; };
        auto use = std::find_if(report.schemes.begin(), report.schemes.end(), same);
        if (use == report.schemes.end()) use = report.schemes.insert(use, {letter, text, {}});
        if (use->layers.empty() || use->layers.back() != layer.index) use->layers.push_back(layer.index);
      }
    }
  }
  report.k_bits = bits[0] / values[0];
  report.v_bits = bits[1] / values[1];
}

/// Measures, judges, and warns: the same for every source.
VerifyReport run(const KvSource& source, const CodecOf& codec_of, const KvFile* packed, const VerifyOptions& options,
                 const Backend& backend) {
  MeasureOptions measure = options.measure;
  measure.control_attention = options.gates.max_attention_kl || options.gates.min_attention_top1;
  VerifyReport report;
  report.backend = backend.name();
  describe_schemes(source, codec_of, report);
  report.layers = measure_kv(source, codec_of, packed, backend, measure);
  report.gates = judge(report.layers, options.gates);
  report.threshold = report.gates.front().limit;
  report.threshold_is_default = !options.gates.threshold;
  report.verdict = overall_verdict(report.gates);
  for (const GateReport& gate : report.gates) {
    for (const GateControl& control : gate.controls) {
      if (!control.passed) continue;
      report.warnings.push_back(fmt::format(
          "--{} {} does not notice {} in the place of {}: it measures nothing here; set a stricter limit or another gate",
          gate.name, gate.limit, name_of(control.control), control.part == 'k' ? "K" : "V"));
    }
  }
  warn_of_keys(report);
  warn_of_scheme(report);
  if (report.verdict == Verdict::kFail) advise_on_keys(report);
  return report;
}

void describe_dump(VerifyReport& report, const KvDump& dump) {
  report.source_path = dump.file().file().path();
  const auto model = dump.metadata().find("model");
  report.model = model != dump.metadata().end() ? model->second : report.source_path;
  for (const KvLayer& layer : dump.layers()) report.dump_bytes += layer.k.info.bytes + layer.v.info.bytes;
}

void check_same_shape(const KvFile& packed, const KvDump& dump) {
  const std::string& path = packed.file().file().path();
  const std::string& against = dump.file().file().path();
  if (packed.layers().size() != dump.layers().size()) {
    throw Error(fmt::format("{} has {} layers and {} has {}: they do not belong together", path, packed.layers().size(),
                            against, dump.layers().size()));
  }
  for (std::size_t i = 0; i < dump.layers().size(); ++i) {
    const PackedLayer& a = packed.layers()[i];
    const KvLayer& b = dump.layers()[i];
    const bool same = a.index == b.index && a.k.heads == b.k.heads && a.k.tokens == b.k.tokens &&
                      a.k.dim == b.k.head_dim && a.v.dim == b.v.head_dim;
    if (same) continue;
    throw Error(fmt::format("{}: layer {} ({} heads, {} tokens, K dim {}, V dim {}) does not belong to {}: layer {} ({} "
                            "heads, {} tokens, K dim {}, V dim {})", path, a.index, a.k.heads, a.k.tokens,
                            a.k.dim, a.v.dim, against, b.index, b.k.heads, b.k.tokens, b.k.head_dim,
                            b.v.head_dim));
  }
}

}  // namespace

void advise_on_keys(VerifyReport& report) {
  constexpr std::size_t kMostLines = 5;
  struct Place {
    int layer;
    std::size_t head;
    const KeyHealthNumbers* health;
  };
  std::vector<Place> places;
  for (const LayerReport& layer : report.layers) {
    for (std::size_t head = 0; head < layer.heads.size(); ++head) {
      const KeyHealthNumbers& health = layer.heads[head].health;
      if (health.remedies.kept_channels > 0) places.push_back({layer.index, head, &health});  // else not measured
    }
  }
  std::stable_sort(places.begin(), places.end(), [](const Place& a, const Place& b) {
    return a.health->mean_energy_share > b.health->mean_energy_share;
  });
  if (places.size() > kMostLines) places.resize(kMostLines);
  for (const Place& place : places) {
    const KeyRemedies& r = place.health->remedies;
    report.advice.push_back(fmt::format(
        "layer {}, head {}: the error energy of K would be {:.2f} of what it is with the mean over tokens subtracted (--k-center), {:.2f} "
        "with its {} loudest channels kept, {:.2f} with one bit more", place.layer, place.head, r.center, r.channels,
        r.kept_channels, r.one_bit));
  }
}

VerifyReport verify_source(const KvSource& source, const VerifyOptions& options, const Backend& backend) {
  check_queries(source, options.gates, source.name());
  return run(source, make_codecs(source, options), nullptr, options, backend);
}

VerifyReport verify_dump(const KvDump& dump, const VerifyOptions& options, const Backend& backend) {
  VerifyReport report = verify_source(*make_dump_source(dump), options, backend);
  report.source_kind = "kv";
  describe_dump(report, dump);
  return report;
}

VerifyReport verify_packed(const KvFile& packed, const KvDump& dump, const VerifyOptions& options,
                           const Backend& backend) {
  check_same_shape(packed, dump);
  packed.check_payload(options.measure.threads);
  const std::unique_ptr<KvSource> source = make_dump_source(dump);
  check_queries(*source, options.gates, dump.file().file().path());
  const CodecOf codec_of = [&](std::size_t layer, KvPart part, std::int64_t head) {
    const PackedLayer& from = packed.layers()[layer];
    return (part == KvPart::kKeys ? from.k : from.v).part_of(head).codec;
  };
  VerifyReport report = run(*source, codec_of, &packed, options, backend);
  report.source_kind = "packed";
  report.packed_path = packed.file().file().path();
  describe_dump(report, dump);
  return report;
}

VerifyReport verify_synthetic(const SyntheticShape& shape, const VerifyOptions& options, const Backend& backend) {
  const std::unique_ptr<KvSource> source = make_synthetic_source(shape);
  check_queries(*source, options.gates, "--synthetic");
  VerifyOptions with_ratio = options;
  if (!with_ratio.gates.max_rel_mse_ratio) with_ratio.gates.max_rel_mse_ratio = kSyntheticMseRatio;
  VerifyReport report = run(*source, make_codecs(*source, with_ratio), nullptr, with_ratio, backend);
  report.source_kind = "synthetic";
  report.model = "synthetic";
  for (const LayerReport& layer : report.layers) {
    report.dump_bytes += 2 * static_cast<std::uint64_t>(layer.all.k.rows) *
                         static_cast<std::uint64_t>(layer.all.k.dim + layer.all.v.dim);
  }
  report.warnings.push_back("Gaussian noise: this says whether the codec works, and nothing about any model");
  return report;
}

}  // namespace tq
