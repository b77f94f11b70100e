#include "lib/verify/measure_kv.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>

#include "lib/error.h"
#include "lib/measure/key_health.h"
#include "lib/verify/head_sums.h"

namespace tq {
namespace {

constexpr std::int64_t kFewestTokensToPermute = 16;
constexpr std::uint32_t kPermutationSeed = 2504;
constexpr int kKeptChannels = 4;

/// The codec under test with the ones that measure beside it.
struct CodecSet {
  std::shared_ptr<const CacheCodec> main;
  std::vector<CacheCodec> other_seeds;  ///< none where no seed enters
  std::optional<CacheCodec> one_bit;
  std::optional<Codec> same;      ///< of plain rows, for the remedies: the scheme's codec, and
  std::optional<Codec> one_more;  ///< with one bit more
  std::optional<CacheCodec> other_sketch;  ///< of a scheme with QJL
};

CodecSet make_codec_set(std::shared_ptr<const CacheCodec> main) {
  CodecSet set;
  const CacheScheme& scheme = main->scheme();
  const bool turns = scheme.kind == CacheKind::kTurboQuant && scheme.rows.rotation != RotationKind::kIdentity;
  const CacheCodec plain = main->plain();
  for (std::uint32_t i = 1; turns && i <= kOtherSeeds; ++i) set.other_seeds.push_back(plain.with_seed(scheme.rows.seed + i));
  if (scheme.average_bits() >= 2) set.one_bit = with_bits(scheme, 1);
  if (scheme.is_plain()) {
    set.same = *plain.rows();
    if (scheme.rows.bits < kMaxBits) set.one_more = *with_bits(scheme, scheme.rows.bits + 1).rows();
  }
  if (scheme.kind == CacheKind::kTurboQuant && scheme.rows.qjl) set.other_sketch = main->with_sketch_seed(*scheme.rows.qjl + 1);
  set.main = std::move(main);
  return set;
}

/// Rows of one head, coded and back.
struct Reconstruction {
  CodedHead coded;
  std::vector<float> rows;
  std::vector<float> for_attention;  ///< keys with their sketch added; without QJL the rows
};

class Measurer {
 public:
  Measurer(const KvSource& source, const CodecOf& codec_of, const KvFile* packed, const Backend& backend,
           const MeasureOptions& options)
      : source_(source), packed_(packed), backend_(backend), options_(options) {
    std::map<const CacheCodec*, std::shared_ptr<const CodecSet>> sets;
    for (std::size_t layer = 0; layer < source.layers().size(); ++layer) {
      auto& of_layer = codecs_.emplace_back();
      for (const KvPart part : {KvPart::kKeys, KvPart::kValues}) {
        for (std::int64_t head = 0; head < source.layers()[layer].kv_heads; ++head) {
          const std::shared_ptr<const CacheCodec> codec = codec_of(layer, part, head);
          std::shared_ptr<const CodecSet>& set = sets[codec.get()];
          if (set == nullptr) set = std::make_shared<const CodecSet>(make_codec_set(codec));
          of_layer[static_cast<std::size_t>(part)].push_back(set);
        }
      }
    }
  }

  const CodecSet& codecs(std::size_t layer, KvPart part, std::int64_t head) const {
    return *codecs_[layer][static_cast<std::size_t>(part)][static_cast<std::size_t>(head)];
  }

  HeadSums measure_head(std::size_t layer, std::int64_t head) const {
    HeadSums sums;
    const std::vector<float> k = source_.read_head(layer, Part::kKeys, head);
    const std::vector<float> v = source_.read_head(layer, Part::kValues, head);
    const CodecSet& k_set = codecs(layer, KvPart::kKeys, head);
    const CodecSet& v_set = codecs(layer, KvPart::kValues, head);
    const Reconstruction k_hat = reconstruct(layer, KvPart::kKeys, head, k);
    const Reconstruction v_hat = reconstruct(layer, KvPart::kValues, head, v);
    measure_part(k_set, k, k_hat, sums.k);
    measure_part(v_set, v, v_hat, sums.v);
    measure_sketch(k_set, k, k_hat, sums.k);
    measure_health(k_set, head, k, sums);
    if (source_.layers()[layer].query_heads == 0) return sums;

    const std::vector<float> q = read_queries(layer, head);
    sums.attention = options_.attention(inputs(layer, head, q, k, k_hat.for_attention, v, v_hat.rows));
    if (!options_.control_attention) return sums;
    for (int i = 0; i < kControls; ++i) {
      const auto control = static_cast<Control>(i);
      const std::vector<float> rows = make_control(control, k_set, k, k_hat);
      if (!rows.empty()) {
        sums.k_control_attention[static_cast<std::size_t>(i)] = options_.attention(inputs(layer, head, q, k, rows, v, v_hat.rows));
      }
    }
    return sums;
  }

 private:
  std::string place_of(std::size_t layer, KvPart part, std::int64_t head) const {
    return fmt::format("{}: {}.{}: head {}", source_.name(), part == KvPart::kKeys ? "k" : "v", source_.layers()[layer].index, head);
  }

  std::vector<float> code_again(const CacheCodec& codec, const std::vector<float>& x, const char* what) const {
    return decode_head(backend_, codec, encode_head(backend_, codec, x, what), Decode::kRow);
  }

  Reconstruction reconstruct(std::size_t layer, KvPart part, std::int64_t head, const std::vector<float>& x) const {
    const CacheCodec& codec = *codecs(layer, part, head).main;
    Reconstruction out;
    if (packed_ != nullptr) {
      const PackedLayer& from = packed_->layers()[layer];
      out.coded = packed_->read_head(part == KvPart::kKeys ? from.k : from.v, head);
    } else {
      out.coded = encode_head(backend_, codec, x, place_of(layer, part, head));
    }
    out.rows = decode_head(backend_, codec, out.coded, Decode::kRow);
    const bool has_sketch = codec.rows() != nullptr && codec.rows()->scheme().qjl;
    out.for_attention = has_sketch ? decode_head(backend_, codec, out.coded, Decode::kInnerProduct) : out.rows;
    return out;
  }

  void measure_part(const CodecSet& set, const std::vector<float>& x, const Reconstruction& coded, PartSums& sums) const {
    const int dim = set.main->scheme().dim;
    const std::int64_t rows = coded.coded.tokens;
    sums.describe(*set.main);
    compare_rows(backend_, dim, DType::kF32, x.data(), DType::kF32, coded.rows.data(), rows, sums.errors);
    sums.expected = expected_error(*set.main, coded.coded, x);
    sums.has_seeds = !set.other_seeds.empty();
    for (std::size_t i = 0; i < set.other_seeds.size(); ++i) {
      sums.other_seed_error[i] = error_energy(x, code_again(set.other_seeds[i], x, "other seed"));
    }
    for (int i = 0; i < kControls; ++i) {
      const std::vector<float> rows_of_control = make_control(static_cast<Control>(i), set, x, coded);
      if (rows_of_control.empty()) continue;
      compare_rows(backend_, dim, DType::kF32, x.data(), DType::kF32, rows_of_control.data(), rows,
                   sums.controls[static_cast<std::size_t>(i)]);
    }
  }

  /// Empty where the control does not apply.
  std::vector<float> make_control(Control control, const CodecSet& set, const std::vector<float>& x,
                                  const Reconstruction& coded) const {
    switch (control) {
      case Control::kZeros: return std::vector<float>(x.size(), 0.0f);
      case Control::kOtherSeed:  // where every token is kept, no seed enters either
        return set.other_seeds.empty() || set.main->scheme().coded_tokens(coded.coded.tokens) == 0 ? std::vector<float>()
                                       : decode_head(backend_, set.other_seeds.front(), coded.coded, Decode::kRow);
      case Control::kPermuted: return permute_tokens(coded.rows, set.main->scheme().dim);
      case Control::kOneBit: break;
    }
    return set.one_bit ? code_again(*set.one_bit, x, "1 bit") : std::vector<float>();
  }

  static std::vector<float> permute_tokens(const std::vector<float>& rows, int dim) {
    const auto width = static_cast<std::size_t>(dim);
    const std::size_t tokens = rows.size() / width;
    if (tokens < kFewestTokensToPermute) return {};
    std::vector<std::size_t> order(tokens);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::mt19937 generator(kPermutationSeed);
    for (std::size_t i = tokens - 1; i > 0; --i) std::swap(order[i], order[generator() % i]);  // no token stays (Sattolo)
    std::vector<float> out(rows.size());
    for (std::size_t t = 0; t < tokens; ++t) {
      std::copy_n(rows.begin() + static_cast<std::ptrdiff_t>(order[t] * width), width,
                  out.begin() + static_cast<std::ptrdiff_t>(t * width));
    }
    return out;
  }

  static double error_energy(const std::vector<float>& x, const std::vector<float>& y) {
    double error = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double difference = static_cast<double>(x[i]) - static_cast<double>(y[i]);
      error += difference * difference;
    }
    return error;
  }

  void measure_sketch(const CodecSet& set, const std::vector<float>& k, const Reconstruction& k_hat, PartSums& sums) const {
    if (!set.other_sketch) return;
    sums.has_sketch = true;
    sums.sketched_error = sums.errors.error_energy();
    const auto dot_with_residual = [&](const std::vector<float>& with_sketch) {
      double sum = 0;
      for (std::size_t i = 0; i < k.size(); ++i) {
        const auto row = static_cast<double>(k_hat.rows[i]);
        sum += (static_cast<double>(k[i]) - row) * (static_cast<double>(with_sketch[i]) - row);
      }
      return sum;
    };
    sums.residual_dot_sketch = dot_with_residual(k_hat.for_attention);
    sums.residual_dot_other_sketch = dot_with_residual(decode_head(backend_, *set.other_sketch, k_hat.coded, Decode::kInnerProduct));
  }

  double coding_error(const Codec& codec, const std::vector<float>& x) const {
    return error_energy(x, code_again(CacheCodec(plain_scheme(codec.scheme()), std::make_shared<const Codec>(codec), nullptr), x, "remedy"));
  }

  void measure_health(const CodecSet& set, std::int64_t head, const std::vector<float>& k, HeadSums& sums) const {
    const int dim = set.main->scheme().dim;
    const auto width = static_cast<std::size_t>(dim);
    KeyHealth health(dim);
    health.add_rows(k);
    sums.health = {health.mean_energy_share(), head, health.channel_rms_ratio(), head, health.loudest_channel(), {}};
    sums.remedy_error.fill(sums.k.errors.error_energy());
    if (!set.same) return;  // a scheme with remedies of its own

    std::vector<float> centered = k;
    for (std::size_t i = 0; i < k.size(); ++i) {
      centered[i] -= static_cast<float>(health.sums()[i % width] / static_cast<double>(health.tokens()));
    }
    sums.kept_channels = std::min(kKeptChannels, dim / 8);
    std::vector<std::size_t> order(width);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return health.energies()[a] > health.energies()[b]; });
    std::vector<float> quiet = k;
    for (std::size_t row = 0; row < k.size(); row += width) {
      for (int i = 0; i < sums.kept_channels; ++i) quiet[row + order[static_cast<std::size_t>(i)]] = 0.0f;
    }
    sums.remedy_error = {coding_error(*set.same, centered), coding_error(*set.same, quiet),
                         set.one_more ? coding_error(*set.one_more, k) : sums.k.errors.error_energy()};
  }

  /// A head that is kept exactly has no such tokens of its own; then those of the other part count.
  std::int64_t recent_tokens(std::size_t layer, std::int64_t head) const {
    return std::max(codecs(layer, KvPart::kKeys, head).main->scheme().recent,
                    codecs(layer, KvPart::kValues, head).main->scheme().recent);
  }

  std::int64_t measured_queries(const SourceLayer& layer) const {
    return std::min(layer.q_tokens, options_.attention_queries);
  }

  /// The last queries of the query heads that share a KV head: [heads][queries][dim].
  std::vector<float> read_queries(std::size_t layer, std::int64_t head) const {
    const SourceLayer& shape = source_.layers()[layer];
    const std::int64_t group = shape.query_heads / shape.kv_heads;
    const auto used = static_cast<std::ptrdiff_t>(measured_queries(shape) * shape.k_dim);
    std::vector<float> q;
    for (std::int64_t i = 0; i < group; ++i) {
      const std::vector<float> all = source_.read_head(layer, Part::kQueries, head * group + i);
      q.insert(q.end(), all.end() - used, all.end());
    }
    return q;
  }

  AttentionInputs inputs(std::size_t layer, std::int64_t head, const std::vector<float>& q, const std::vector<float>& k,
                         const std::vector<float>& k_hat, const std::vector<float>& v,
                         const std::vector<float>& v_hat) const {
    const SourceLayer& shape = source_.layers()[layer];
    const auto group = static_cast<std::size_t>(shape.query_heads / shape.kv_heads);
    const std::span<const float> sinks = shape.sinks;
    return {.q = q, .k = k, .k_hat = k_hat, .v = v, .v_hat = v_hat,
            .query_heads = shape.query_heads / shape.kv_heads, .q_tokens = measured_queries(shape),
            .tokens = shape.tokens, .d_k = shape.k_dim, .d_v = shape.v_dim, .scale = shape.attention_scale,
            .softcap = shape.softcap, .window = shape.window, .recent = recent_tokens(layer, head),
            .sinks = sinks.empty() ? sinks : sinks.subspan(static_cast<std::size_t>(head) * group, group)};
  }

  const KvSource& source_;
  const KvFile* packed_;
  const Backend& backend_;
  const MeasureOptions& options_;
  std::vector<std::array<std::vector<std::shared_ptr<const CodecSet>>, 2>> codecs_;  // K and V of each layer, a head each
};

}  // namespace

std::vector<LayerReport> measure_kv(const KvSource& source, const CodecOf& codec_of, const KvFile* packed,
                                    const Backend& backend, const MeasureOptions& options) {
  const Measurer measurer(source, codec_of, packed, backend, options);
  std::vector<LayerReport> reports;
  std::vector<std::pair<std::size_t, std::int64_t>> pieces;
  for (std::size_t layer = 0; layer < source.layers().size(); ++layer) {
    const SourceLayer& from = source.layers()[layer];
    reports.push_back({from.index, from.kv_heads, from.tokens, from.query_heads, from.attention_scale, from.softcap,
                       from.window, !from.sinks.empty(), {}, {}});
    for (std::int64_t head = 0; head < from.kv_heads; ++head) pieces.emplace_back(layer, head);
  }

  std::vector<HeadSums> of_worker(static_cast<std::size_t>(options.threads));
  HeadSums of_layer;
  parallel_ordered(
      options.threads, static_cast<std::int64_t>(pieces.size()),
      [&](std::int64_t piece, int worker) {
        const auto [layer, head] = pieces[static_cast<std::size_t>(piece)];
        of_worker[static_cast<std::size_t>(worker)] = measurer.measure_head(layer, head);
      },
      [&](std::int64_t piece, int worker) {
        const auto [layer, head] = pieces[static_cast<std::size_t>(piece)];
        const HeadSums& sums = of_worker[static_cast<std::size_t>(worker)];
        LayerReport& report = reports[layer];
        report.heads.push_back(summarize(sums));
        of_layer.merge(sums);
        if (head + 1 == report.kv_heads) report.all = summarize(std::exchange(of_layer, HeadSums()));
        if (options.progress) options.progress(1);
      });
  return reports;
}

}  // namespace tq
