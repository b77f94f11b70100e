#include "lib/verify/verify_kv.h"

#include <fmt/format.h>

#include <map>

#include "lib/error.h"

namespace tq {
namespace {

constexpr double kSyntheticMseRatio = 1.1;
/// Above this share, the codes of a key describe the mean of all keys more than the key.
constexpr double kMeanDominates = 0.5;

/// One codec a scheme: layers that share a scheme share its tables.
CodecOf make_codecs(const KvSource& source, const VerifyOptions& options) {
  auto codecs = std::make_shared<std::map<std::string, std::shared_ptr<const Codec>>>();
  return [&source, &options, codecs](std::size_t layer, Part part) {
    const SourceLayer& shape = source.layers()[layer];
    const Scheme scheme = part == Part::kKeys
                              ? default_scheme(options.k_bits, shape.k_dim, options.rotation, options.k_seed)
                              : default_scheme(options.v_bits, shape.v_dim, options.rotation, options.v_seed);
    std::shared_ptr<const Codec>& codec = (*codecs)[format_scheme(scheme)];
    if (codec == nullptr) codec = std::make_shared<const Codec>(scheme);
    return codec;
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

std::uint64_t coded_bytes(const std::vector<LayerReport>& layers) {
  std::uint64_t bytes = 0;
  for (const LayerReport& layer : layers) {
    for (const PartNumbers* part : {&layer.all.k, &layer.all.v}) {
      const auto row = static_cast<std::uint64_t>((part->dim * part->bits + 7) / 8) + sizeof(float);
      bytes += static_cast<std::uint64_t>(part->rows) * row;
    }
  }
  return bytes;
}

void warn_of_keys(VerifyReport& report) {
  std::size_t dominated = 0;
  const LayerReport* worst = nullptr;
  for (const LayerReport& layer : report.layers) {
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

/// Measures, judges, and warns: the same for every source.
VerifyReport run(const KvSource& source, const CodecOf& codec_of, const KvFile* packed, const VerifyOptions& options,
                 const Backend& backend) {
  MeasureOptions measure = options.measure;
  measure.control_attention = options.gates.max_attention_kl || options.gates.min_attention_top1;
  VerifyReport report;
  report.backend = backend.name();
  report.k_scheme = codec_of(0, Part::kKeys)->scheme();
  report.v_scheme = codec_of(0, Part::kValues)->scheme();
  report.layers = measure_kv(source, codec_of, packed, backend, measure);
  report.gates = judge(report.layers, options.gates);
  report.threshold = report.gates.front().limit;
  report.threshold_is_default = !options.gates.threshold;
  report.verdict = overall_verdict(report.gates);
  report.packed_bytes = coded_bytes(report.layers);
  for (const GateReport& gate : report.gates) {
    for (const GateControl& control : gate.controls) {
      if (!control.passed) continue;
      report.warnings.push_back(fmt::format(
          "--{} {} does not notice {} in the place of {}: it measures nothing here; set a stricter limit or another gate",
          gate.name, gate.limit, name_of(control.control), control.part == 'k' ? "K" : "V"));
    }
  }
  warn_of_keys(report);
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
                      a.k.scheme.dim == b.k.head_dim && a.v.scheme.dim == b.v.head_dim;
    if (same) continue;
    throw Error(fmt::format("{}: layer {} [{}, {}, {}] does not belong to {}: layer {} [{}, {}, {}]", path, a.index,
                            a.k.heads, a.k.tokens, a.k.scheme.dim, against, b.index, b.k.heads, b.k.tokens,
                            b.k.head_dim));
  }
}

}  // namespace

VerifyReport verify_dump(const KvDump& dump, const VerifyOptions& options, const Backend& backend) {
  const std::unique_ptr<KvSource> source = make_dump_source(dump);
  check_queries(*source, options.gates, dump.file().file().path());
  VerifyReport report = run(*source, make_codecs(*source, options), nullptr, options, backend);
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
  const CodecOf codec_of = [&](std::size_t layer, Part part) {
    const PackedLayer& from = packed.layers()[layer];
    return part == Part::kKeys ? from.k.codec : from.v.codec;
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
