#include "lib/verify/measure_kv.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <numeric>
#include <random>

#include "lib/error.h"
#include "lib/measure/attention_stats.h"
#include "lib/measure/error_stats.h"
#include "lib/measure/key_health.h"
#include "lib/pack/pack_kv.h"

namespace tq {
namespace {

constexpr std::int64_t kFewestTokensToPermute = 16;
constexpr std::uint32_t kPermutationSeed = 2504;
constexpr std::size_t kRemedies = 3;
constexpr int kKeptChannels = 4;

/// The codec under test with the ones that measure beside it.
struct CodecSet {
  std::shared_ptr<const Codec> main;
  std::vector<Codec> other_seeds;
  std::optional<Codec> one_bit;
  std::optional<Codec> one_more;  ///< one bit more than the scheme
  std::optional<Codec> other_sketch;  ///< of a scheme with QJL
};

CodecSet make_codec_set(std::shared_ptr<const Codec> main) {
  CodecSet set;
  const Scheme& scheme = main->scheme();
  for (std::uint32_t i = 1; i <= kOtherSeeds; ++i) set.other_seeds.push_back(main->with_seed(scheme.seed + i).plain());
  if (scheme.bits >= 2) {
    Scheme one_bit = default_scheme(1, scheme.dim, scheme.rotation, scheme.seed);
    one_bit.norm = scheme.norm;
    set.one_bit.emplace(one_bit);
  }
  if (scheme.bits < kMaxBits) {
    Scheme one_more = default_scheme(scheme.bits + 1, scheme.dim, scheme.rotation, scheme.seed);
    one_more.norm = scheme.norm;
    set.one_more.emplace(one_more);
  }
  if (scheme.qjl) set.other_sketch = main->with_sketch_seed(*scheme.qjl + 1);
  set.main = std::move(main);
  return set;
}

/// What is summed over the rows of one head, and then over the heads of a layer.
struct PartSums {
  ErrorStats errors;
  bool has_sketch = false;
  double residual_dot_sketch = 0;
  double residual_dot_other_sketch = 0;  ///< the same signs, with the matrix of another seed
  std::array<double, kOtherSeeds> other_seed_error{};
  std::array<ErrorStats, kControls> controls;

  void merge(const PartSums& other) {
    errors.merge(other.errors);
    residual_dot_sketch += other.residual_dot_sketch;
    residual_dot_other_sketch += other.residual_dot_other_sketch;
    has_sketch |= other.has_sketch;
    for (std::size_t i = 0; i < kOtherSeeds; ++i) other_seed_error[i] += other.other_seed_error[i];
    for (std::size_t i = 0; i < kControls; ++i) controls[i].merge(other.controls[i]);
  }
};

struct Sums {
  PartSums k, v;
  std::optional<AttentionStats> attention;
  std::array<std::optional<AttentionStats>, kControls> k_control_attention;
  KeyHealthNumbers health;
  std::array<double, kRemedies> remedy_error{};  ///< error energy of K with each remedy: center, channels, one bit
  int kept_channels = 0;

  void merge(const Sums& other) {
    k.merge(other.k);
    v.merge(other.v);
    const auto merge_attention = [](auto& into, const auto& from) {
      if (!from) return;
      if (!into) into.emplace();
      into->merge(*from);
    };
    merge_attention(attention, other.attention);
    for (std::size_t i = 0; i < kControls; ++i) merge_attention(k_control_attention[i], other.k_control_attention[i]);
    if (other.health.mean_energy_share > health.mean_energy_share) {
      health.mean_energy_share = other.health.mean_energy_share;
      health.mean_head = other.health.mean_head;
    }
    for (std::size_t i = 0; i < kRemedies; ++i) remedy_error[i] += other.remedy_error[i];
    kept_channels = other.kept_channels;
    if (other.health.channel_rms_ratio > health.channel_rms_ratio) {
      health.channel_rms_ratio = other.health.channel_rms_ratio;
      health.channel_head = other.health.channel_head;
      health.channel = other.health.channel;
    }
  }
};

PartNumbers summarize(const PartSums& sums, const Codec& codec) {
  const ErrorStats& e = sums.errors;
  PartNumbers n;
  n.bits = codec.scheme().bits;
  n.dim = codec.scheme().dim;
  n.distortion = codec.distortion();
  n.ideal_cosine = std::sqrt(1.0 - table_distortion(codec.codebook(), Density::kBeta, n.dim));
  n.rows = e.rows();
  n.relative_mse = e.relative_mse();
  n.mse_ratio = n.relative_mse / n.distortion;
  n.bound_ratio = n.relative_mse / theorem1_bound(n.bits);
  n.bits_lost = e.bits_lost_to_shannon(n.bits);
  n.cosine_flattened = e.cosine_flattened();
  n.cosine_mean = e.cosine_mean();
  n.cosine_p1 = e.cosine_p1();
  n.cosine_min = e.cosine_min();
  n.norm_bias = e.norm_bias();
  n.worst_row = e.worst_row();
  if (sums.has_sketch) {
    n.qjl_slope = sums.residual_dot_sketch / e.error_energy();
    n.qjl_slope_other_seed = sums.residual_dot_other_sketch / e.error_energy();
  }
  const double unit = e.x_energy() > 0 ? e.x_energy() * n.distortion : 1.0;
  const auto [low, high] = std::minmax_element(sums.other_seed_error.begin(), sums.other_seed_error.end());
  n.other_seeds_min = *low / unit;
  n.other_seeds_max = *high / unit;
  n.other_seeds_mean = std::accumulate(sums.other_seed_error.begin(), sums.other_seed_error.end(), 0.0) / unit / kOtherSeeds;
  for (std::size_t i = 0; i < kControls; ++i) {
    const ErrorStats& c = sums.controls[i];
    if (c.rows() > 0) n.controls[i] = {c.cosine_flattened(), c.cosine_min(), c.relative_mse()};
  }
  return n;
}

std::optional<AttentionNumbers> summarize(const std::optional<AttentionStats>& stats) {
  if (!stats) return std::nullopt;
  return AttentionNumbers{stats->queries(), stats->logit_rmse(), stats->kl_mean(), stats->kl_p99(), stats->kl_max(),
                          stats->top1_agreement(), stats->output_relative_error(), stats->output_cosine_mean()};
}

Measurement summarize(const Sums& sums, const Codec& k_codec, const Codec& v_codec) {
  Measurement m;
  m.k = summarize(sums.k, k_codec);
  m.v = summarize(sums.v, v_codec);
  m.attention = summarize(sums.attention);
  for (std::size_t i = 0; i < kControls; ++i) m.k_control_attention[i] = summarize(sums.k_control_attention[i]);
  m.health = sums.health;
  const double error = sums.k.errors.error_energy();
  const auto gain = [&](std::size_t i) { return error > 0 ? sums.remedy_error[i] / error : 1.0; };
  m.health.remedies = {gain(0), gain(1), gain(2), sums.kept_channels};
  return m;
}

/// Rows of one head, coded and back.
struct Reconstruction {
  CodedRows coded;
  std::vector<float> rows;
  std::vector<float> for_attention;  ///< keys with their sketch added; without QJL the rows
};

class Measurer {
 public:
  Measurer(const KvSource& source, const CodecOf& codec_of, const KvFile* packed, const Backend& backend,
           const MeasureOptions& options)
      : source_(source), packed_(packed), backend_(backend), options_(options) {
    std::map<const Codec*, std::shared_ptr<const CodecSet>> sets;
    for (std::size_t layer = 0; layer < source.layers().size(); ++layer) {
      for (const Part part : {Part::kKeys, Part::kValues}) {
        const std::shared_ptr<const Codec> codec = codec_of(layer, part);
        std::shared_ptr<const CodecSet>& set = sets[codec.get()];
        if (set == nullptr) set = std::make_shared<const CodecSet>(make_codec_set(codec));
        codecs_.push_back(set);
      }
    }
  }

  const CodecSet& codecs(std::size_t layer, Part part) const {
    return *codecs_[2 * layer + (part == Part::kKeys ? 0 : 1)];
  }

  Sums measure_head(std::size_t layer, std::int64_t head) const {
    Sums sums;
    const std::vector<float> k = source_.read_head(layer, Part::kKeys, head);
    const std::vector<float> v = source_.read_head(layer, Part::kValues, head);
    const Reconstruction k_hat = reconstruct(layer, Part::kKeys, head, k);
    const Reconstruction v_hat = reconstruct(layer, Part::kValues, head, v);
    measure_part(codecs(layer, Part::kKeys), k, k_hat, sums.k);
    measure_part(codecs(layer, Part::kValues), v, v_hat, sums.v);
    measure_sketch(codecs(layer, Part::kKeys), k, k_hat, sums.k);
    measure_health(codecs(layer, Part::kKeys), head, k, sums);
    if (source_.layers()[layer].query_heads == 0) return sums;

    const std::vector<float> q = read_queries(layer, head);
    sums.attention = measure_attention(inputs(layer, head, q, k, k_hat.for_attention, v, v_hat.rows));
    if (!options_.control_attention) return sums;
    for (int i = 0; i < kControls; ++i) {
      const auto control = static_cast<Control>(i);
      const std::vector<float> rows = make_control(control, codecs(layer, Part::kKeys), k, k_hat);
      if (!rows.empty()) {
        sums.k_control_attention[static_cast<std::size_t>(i)] = measure_attention(inputs(layer, head, q, k, rows, v, v_hat.rows));
      }
    }
    return sums;
  }

 private:
  CodedRows encode(const Codec& codec, const std::vector<float>& x, const std::string& place) const {
    const auto dim = static_cast<std::size_t>(codec.scheme().dim);
    CodedRows coded;
    const std::int64_t refused =
        encode_rows(backend_, codec, DType::kF32, x.data(), static_cast<std::int64_t>(x.size() / dim), coded);
    if (refused >= 0) {
      report_refused_row(fmt::format("{}, token {}", place, refused), codec.scheme(),
                         std::span(x).subspan(static_cast<std::size_t>(refused) * dim, dim));
    }
    return coded;
  }

  std::vector<float> decode(const Codec& codec, const CodedRows& coded, Decode purpose = Decode::kRow) const {
    std::vector<float> rows(static_cast<std::size_t>(coded.count) * static_cast<std::size_t>(codec.scheme().dim));
    decode_rows(backend_, codec, coded, purpose, DType::kF32, rows.data());
    return rows;
  }

  std::string place_of(std::size_t layer, Part part, std::int64_t head) const {
    return fmt::format("{}: {}.{}: head {}", source_.name(), part == Part::kKeys ? "k" : "v", source_.layers()[layer].index, head);
  }

  Reconstruction reconstruct(std::size_t layer, Part part, std::int64_t head, const std::vector<float>& x) const {
    const Codec& codec = *codecs(layer, part).main;
    Reconstruction out;
    if (packed_ != nullptr) {
      const PackedLayer& from = packed_->layers()[layer];
      const PackedTensor& tensor = part == Part::kKeys ? from.k : from.v;
      packed_->read_rows(tensor, head * tensor.tokens, tensor.tokens, out.coded);
    } else {
      out.coded = encode(codec, x, place_of(layer, part, head));
    }
    out.rows = decode(codec, out.coded);
    out.for_attention = codec.scheme().qjl ? decode(codec, out.coded, Decode::kInnerProduct) : out.rows;
    return out;
  }

  void measure_part(const CodecSet& set, const std::vector<float>& x, const Reconstruction& coded, PartSums& sums) const {
    const int dim = set.main->scheme().dim;
    const std::int64_t rows = coded.coded.count;
    compare_rows(backend_, dim, DType::kF32, x.data(), DType::kF32, coded.rows.data(), rows, sums.errors);
    for (std::size_t i = 0; i < kOtherSeeds; ++i) {
      const std::vector<float> other = decode(set.other_seeds[i], encode(set.other_seeds[i], x, "other seed"));
      sums.other_seed_error[i] = error_energy(x, other);
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
      case Control::kOtherSeed:
        if (set.main->scheme().rotation == RotationKind::kIdentity) return {};  // no seed enters
        return decode(set.other_seeds.front(), coded.coded);
      case Control::kPermuted: return permute_tokens(coded.rows, set.main->scheme().dim);
      case Control::kOneBit: break;
    }
    return set.one_bit ? decode(*set.one_bit, encode(*set.one_bit, x, "1 bit")) : std::vector<float>();
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
    const auto dot_with_residual = [&](const std::vector<float>& with_sketch) {
      double sum = 0;
      for (std::size_t i = 0; i < k.size(); ++i) {
        const auto row = static_cast<double>(k_hat.rows[i]);
        sum += (static_cast<double>(k[i]) - row) * (static_cast<double>(with_sketch[i]) - row);
      }
      return sum;
    };
    sums.residual_dot_sketch = dot_with_residual(k_hat.for_attention);
    sums.residual_dot_other_sketch = dot_with_residual(decode(*set.other_sketch, k_hat.coded, Decode::kInnerProduct));
  }

  double coding_error(const Codec& codec, const std::vector<float>& x) const {
    return error_energy(x, decode(codec, encode(codec, x, "remedy")));
  }

  void measure_health(const CodecSet& set, std::int64_t head, const std::vector<float>& k, Sums& sums) const {
    const int dim = set.main->scheme().dim;
    const auto width = static_cast<std::size_t>(dim);
    KeyHealth health(dim);
    health.add_rows(k);
    sums.health = {health.mean_energy_share(), head, health.channel_rms_ratio(), head, health.loudest_channel(), {}};

    const Codec plain = set.main->plain();
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
    sums.remedy_error = {coding_error(plain, centered), coding_error(plain, quiet),
                         set.one_more ? coding_error(*set.one_more, k) : sums.k.errors.error_energy()};
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
            .softcap = shape.softcap, .window = shape.window,
            .sinks = sinks.empty() ? sinks : sinks.subspan(static_cast<std::size_t>(head) * group, group)};
  }

  const KvSource& source_;
  const KvFile* packed_;
  const Backend& backend_;
  const MeasureOptions& options_;
  std::vector<std::shared_ptr<const CodecSet>> codecs_;  // K and V of each layer
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

  std::vector<Sums> of_worker(static_cast<std::size_t>(options.threads));
  Sums of_layer;
  parallel_ordered(
      options.threads, static_cast<std::int64_t>(pieces.size()),
      [&](std::int64_t piece, int worker) {
        const auto [layer, head] = pieces[static_cast<std::size_t>(piece)];
        of_worker[static_cast<std::size_t>(worker)] = measurer.measure_head(layer, head);
      },
      [&](std::int64_t piece, int worker) {
        const auto [layer, head] = pieces[static_cast<std::size_t>(piece)];
        const Sums& sums = of_worker[static_cast<std::size_t>(worker)];
        LayerReport& report = reports[layer];
        const Codec& k_codec = *measurer.codecs(layer, Part::kKeys).main;
        const Codec& v_codec = *measurer.codecs(layer, Part::kValues).main;
        report.heads.push_back(summarize(sums, k_codec, v_codec));
        of_layer.merge(sums);
        if (head + 1 == report.kv_heads) report.all = summarize(std::exchange(of_layer, Sums()), k_codec, v_codec);
        if (options.progress) options.progress(1);
      });
  return reports;
}

}  // namespace tq
