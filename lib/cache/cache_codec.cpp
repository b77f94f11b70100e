#include "lib/cache/cache_codec.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "lib/convert.h"
#include "lib/error.h"
#include "lib/parallel.h"

namespace tq {
namespace {

GroupShape group_shape(const CacheScheme& scheme) { return {scheme.dim, scheme.group, scheme.group_bits}; }

std::vector<std::uint16_t> to_half(std::span<const float> values, DType dtype) {
  std::vector<std::uint16_t> half(values.size());
  convert_from_float(values.data(), static_cast<std::int64_t>(values.size()), dtype, half.data());
  return half;
}

std::vector<float> from_half(std::span<const std::uint16_t> half, DType dtype) {
  std::vector<float> values(half.size());
  convert_to_float(dtype, half.data(), static_cast<std::int64_t>(half.size()), values.data());
  return values;
}

/// The rows that are coded, the means subtracted: what rows and outliers are taken from.
std::vector<float> subtract_center(std::span<const float> rows, std::span<const std::uint16_t> center) {
  std::vector<float> left(rows.begin(), rows.end());
  const std::vector<float> mean = from_half(center, DType::kBf16);
  for (std::size_t i = 0; i < left.size() && !mean.empty(); ++i) left[i] -= mean[i % mean.size()];
  return left;
}

void check_finite(const CacheScheme& scheme, std::span<const float> x, const std::string& where) {
  const auto bad = std::find_if(x.begin(), x.end(), [](float value) { return !std::isfinite(value); });
  if (bad == x.end()) return;
  const auto dim = static_cast<std::size_t>(scheme.dim);
  const auto token = static_cast<std::size_t>(bad - x.begin()) / dim;
  report_refused_row(fmt::format("{}, token {}", where, token), scheme.rows, x.subspan(token * dim, dim));
}

/// Rows in 16 bits. Error where a value becomes infinite in them.
void append_exact(const CacheScheme& scheme, std::span<const float> x, std::int64_t first_token, const std::string& where,
                  std::vector<std::uint16_t>& exact) {
  const std::vector<std::uint16_t> half = to_half(x, scheme.exact_dtype);
  const std::uint16_t infinity = scheme.exact_dtype == DType::kF16 ? 0x7c00 : 0x7f80;
  const auto bad = std::find_if(half.begin(), half.end(), [&](std::uint16_t h) { return (h & 0x7fff) >= infinity; });
  if (bad != half.end()) {
    const std::int64_t place = bad - half.begin();
    throw Error(fmt::format("{}, token {}, channel {}: the value overflows {}, in which the token is kept; scale the tensor down",
                            where, first_token + place / scheme.dim, place % scheme.dim, name_of(scheme.exact_dtype)));
  }
  exact.insert(exact.end(), half.begin(), half.end());
}

/// BF16. Error where a mean overflows it.
std::vector<std::uint16_t> find_center(std::span<const float> rows, std::size_t dim, const std::string& where) {
  std::vector<double> sums(dim);
  for (std::size_t i = 0; i < rows.size(); ++i) sums[i % dim] += rows[i];
  std::vector<float> mean(dim);
  const auto tokens = static_cast<double>(std::max<std::size_t>(1, rows.size() / dim));
  std::transform(sums.begin(), sums.end(), mean.begin(), [&](double sum) { return static_cast<float>(sum / tokens); });
  const std::vector<std::uint16_t> half = to_half(mean, DType::kBf16);
  const auto bad = std::find_if(half.begin(), half.end(), [](std::uint16_t h) { return (h & 0x7fff) >= 0x7f80; });
  if (bad == half.end()) return half;
  throw Error(fmt::format("{}, channel {}: the mean over the tokens overflows BF16; scale the tensor down", where, bad - half.begin()));
}

/// The `count` channels with the most energy, ascending; of equals the first.
std::vector<std::uint16_t> find_loudest(std::span<const float> rows, std::size_t dim, int count) {
  std::vector<double> energies(dim);
  for (std::size_t i = 0; i < rows.size(); ++i) energies[i % dim] += static_cast<double>(rows[i]) * rows[i];
  std::vector<std::uint16_t> order(dim);
  std::iota(order.begin(), order.end(), std::uint16_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::uint16_t a, std::uint16_t b) { return energies[a] > energies[b]; });
  order.resize(static_cast<std::size_t>(count));
  std::sort(order.begin(), order.end());
  return order;
}

/// Which channels of a row are outliers, and which are not, each ascending.
struct Split {
  std::vector<std::uint16_t> rows, outliers;

  Split(std::span<const std::uint16_t> channels, int dim) : outliers(channels.begin(), channels.end()) {
    for (int i = 0; i < dim; ++i) {
      const auto channel = static_cast<std::uint16_t>(i);
      if (!std::binary_search(channels.begin(), channels.end(), channel)) rows.push_back(channel);
    }
  }
};

std::vector<float> gather(std::span<const float> rows, std::size_t dim, const std::vector<std::uint16_t>& channels) {
  std::vector<float> part;
  part.reserve(rows.size() / dim * channels.size());
  for (std::size_t row = 0; row < rows.size(); row += dim) {
    for (const std::uint16_t channel : channels) part.push_back(rows[row + channel]);
  }
  return part;
}

void scatter(std::span<const float> part, const std::vector<std::uint16_t>& channels, std::size_t dim, std::span<float> rows) {
  std::size_t next = 0;
  for (std::size_t row = 0; row < rows.size(); row += dim) {
    for (const std::uint16_t channel : channels) rows[row + channel] = part[next++];
  }
}

CodedRows encode_part(const Backend& backend, const Codec& codec, std::span<const float> rows, std::int64_t first_token,
                      const std::string& where) {
  const auto dim = static_cast<std::size_t>(codec.scheme().dim);
  CodedRows coded;
  const std::int64_t refused =
      encode_rows(backend, codec, DType::kF32, rows.data(), static_cast<std::int64_t>(rows.size() / dim), coded);
  if (refused >= 0) {
    report_refused_row(fmt::format("{}, token {}", where, first_token + refused), codec.scheme(),
                       rows.subspan(static_cast<std::size_t>(refused) * dim, dim));
  }
  return coded;
}

std::vector<float> decode_part(const Backend& backend, const Codec& codec, const CodedRows& coded, Decode purpose) {
  std::vector<float> rows(static_cast<std::size_t>(coded.count) * static_cast<std::size_t>(codec.scheme().dim));
  decode_rows(backend, codec, coded, purpose, DType::kF32, rows.data());
  return rows;
}

double energy(std::span<const float> values) {
  return std::accumulate(values.begin(), values.end(), 0.0, [](double sum, float x) { return sum + static_cast<double>(x) * x; });
}

class CodecMethod final : public CacheMethod {
 public:
  using Codecs = std::vector<std::shared_ptr<const CacheCodec>>;
  CodecMethod(Codecs codecs, const Backend& backend, int threads, Codecs readers)
      : codecs_(std::move(codecs)), readers_(readers.empty() ? codecs_ : std::move(readers)), backend_(backend), threads_(threads) {}

  std::string describe() const override {
    const std::string text = format_cache_scheme(codecs_.front()->scheme());
    return codecs_.size() == 1 ? text : text + " (by head)";
  }
  std::uint64_t bytes(std::int64_t heads, std::int64_t tokens) const override {
    std::uint64_t sum = 0;
    for (std::int64_t head = 0; head < heads; ++head) sum += of_head(codecs_, head).scheme().bytes(1, tokens);
    return sum;
  }
  std::int64_t recent_tokens() const override { return codecs_.front()->scheme().recent; }

  void round_trip(std::span<const float> x, std::int64_t heads, std::int64_t tokens, std::span<float> x_hat,
                  const std::string& where) const override {
    parallel_for(threads_, heads, [&](std::int64_t head) {
      const CacheCodec& codec = of_head(codecs_, head);
      const std::int64_t dim = codec.scheme().dim;
      if (static_cast<std::int64_t>(x.size()) != heads * tokens * dim || x_hat.size() != x.size()) {
        throw Error(fmt::format("{}: {} values are not {} heads of {} rows of {}", where, x.size(), heads, tokens, dim));
      }
      const auto first = static_cast<std::size_t>(head * tokens * dim);
      const CodedHead coded = encode_head(backend_, codec, x.subspan(first, static_cast<std::size_t>(tokens * dim)),
                                          fmt::format("{}: head {}", where, head));
      const std::vector<float> rows = decode_head(backend_, of_head(readers_, head), coded, Decode::kInnerProduct);
      std::copy(rows.begin(), rows.end(), x_hat.begin() + static_cast<std::ptrdiff_t>(first));
    });
  }

 private:
  static const CacheCodec& of_head(const Codecs& codecs, std::int64_t head) {
    return *codecs[codecs.size() == 1 ? 0 : static_cast<std::size_t>(head)];
  }

  Codecs codecs_, readers_;
  const Backend& backend_;
  int threads_;
};

}  // namespace

CacheCodec::CacheCodec(const CacheScheme& scheme, int effort) : scheme_(scheme) {
  if (scheme.kind != CacheKind::kTurboQuant) return;
  rows_ = std::make_shared<const Codec>(Codec(scheme.rows).with_effort(effort));
  if (scheme.outlier_channels > 0) outliers_ = std::make_shared<const Codec>(Codec(scheme.outlier_rows).with_effort(effort));
}

CacheCodec::CacheCodec(const CacheScheme& scheme, std::shared_ptr<const Codec> rows, std::shared_ptr<const Codec> outliers)
    : scheme_(scheme), rows_(std::move(rows)), outliers_(std::move(outliers)) {}

CacheCodec CacheCodec::with_seed(std::uint32_t seed) const {
  CacheCodec other = *this;
  other.scheme_.rows.seed = other.scheme_.outlier_rows.seed = seed;
  if (rows_) other.rows_ = std::make_shared<const Codec>(rows_->with_seed(seed));
  if (outliers_) other.outliers_ = std::make_shared<const Codec>(outliers_->with_seed(seed));
  return other;
}

CacheCodec CacheCodec::plain() const {
  CacheCodec other = *this;
  if (rows_) other.rows_ = std::make_shared<const Codec>(rows_->plain());
  if (outliers_) other.outliers_ = std::make_shared<const Codec>(outliers_->plain());
  if (rows_) other.scheme_.rows = other.rows_->scheme();
  if (outliers_) other.scheme_.outlier_rows = other.outliers_->scheme();
  return other;
}

CacheCodec CacheCodec::with_sketch_seed(std::uint32_t seed) const {
  CacheCodec other = *this;
  other.scheme_.rows.qjl = seed;
  other.rows_ = std::make_shared<const Codec>(rows_->with_sketch_seed(seed));
  return other;
}

CodedHead encode_head(const Backend& backend, const CacheCodec& codec, std::span<const float> x, const std::string& where) {
  const CacheScheme& scheme = codec.scheme();
  const auto dim = static_cast<std::size_t>(scheme.dim);
  CodedHead out;
  out.tokens = static_cast<std::int64_t>(x.size() / dim);
  const auto coded = static_cast<std::size_t>(scheme.coded_tokens(out.tokens));
  const std::size_t first = coded > 0 ? static_cast<std::size_t>(scheme.sinks) : x.size() / dim;
  const std::span<const float> kept = x.subspan(first * dim, coded * dim);
  check_finite(scheme, x, where);
  append_exact(scheme, x.first(first * dim), 0, where, out.exact);
  append_exact(scheme, x.subspan((first + coded) * dim), static_cast<std::int64_t>(first + coded), where, out.exact);
  if (scheme.kind == CacheKind::kGroup) {
    const std::int64_t refused = encode_groups(group_shape(scheme), kept, out.groups);
    if (refused < 0) return out;
    throw Error(fmt::format("{}, token {}: the minimum or the step of a group overflows F16; scale the tensor down, or do not "
                            "use --group-values", where, static_cast<std::int64_t>(first) + refused));
  }
  if (scheme.kind == CacheKind::kExact) return out;
  if (scheme.center) out.center = find_center(kept, dim, where);
  const std::vector<float> left = subtract_center(kept, out.center);
  const auto first_token = static_cast<std::int64_t>(first);
  if (scheme.outlier_channels == 0) {
    out.rows = encode_part(backend, *codec.rows(), left, first_token, where);
    return out;
  }
  out.channels = find_loudest(left, dim, scheme.outlier_channels);
  const Split split(out.channels, scheme.dim);
  out.rows = encode_part(backend, *codec.rows(), gather(left, dim, split.rows), first_token, where);
  out.outliers = encode_part(backend, *codec.outliers(), gather(left, dim, split.outliers), first_token, where);
  return out;
}

std::vector<float> decode_head(const Backend& backend, const CacheCodec& codec, const CodedHead& coded, Decode purpose) {
  const CacheScheme& scheme = codec.scheme();
  const auto dim = static_cast<std::size_t>(scheme.dim);
  std::vector<float> x = from_half(coded.exact, scheme.exact_dtype);
  std::vector<float> rows(static_cast<std::size_t>(scheme.coded_tokens(coded.tokens)) * dim);
  if (scheme.kind == CacheKind::kGroup) {
    decode_groups(group_shape(scheme), coded.groups, rows);
  } else if (scheme.outlier_channels > 0) {
    const Split split(coded.channels, scheme.dim);
    scatter(decode_part(backend, *codec.rows(), coded.rows, purpose), split.rows, dim, rows);
    scatter(decode_part(backend, *codec.outliers(), coded.outliers, purpose), split.outliers, dim, rows);
  } else if (scheme.kind == CacheKind::kTurboQuant) {
    rows = decode_part(backend, *codec.rows(), coded.rows, purpose);
  }
  const std::vector<float> mean = from_half(coded.center, DType::kBf16);
  for (std::size_t i = 0; i < rows.size() && !mean.empty(); ++i) rows[i] += mean[i % dim];
  if (!rows.empty()) x.insert(x.begin() + scheme.sinks * scheme.dim, rows.begin(), rows.end());
  return x;
}

double expected_error(const CacheCodec& codec, const CodedHead& coded, std::span<const float> x) {
  const CacheScheme& scheme = codec.scheme();
  const std::int64_t tokens = scheme.coded_tokens(coded.tokens);
  if (tokens == 0) return 0;
  if (scheme.kind == CacheKind::kGroup) return std::numeric_limits<double>::quiet_NaN();
  const auto dim = static_cast<std::size_t>(scheme.dim);
  const auto sinks = static_cast<std::size_t>(scheme.sinks);
  const std::vector<float> left = subtract_center(x.subspan(sinks * dim, static_cast<std::size_t>(tokens) * dim), coded.center);
  if (scheme.outlier_channels == 0) return codec.rows()->distortion() * energy(left);
  const Split split(coded.channels, scheme.dim);
  return codec.rows()->distortion() * energy(gather(left, dim, split.rows)) +
         codec.outliers()->distortion() * energy(gather(left, dim, split.outliers));
}

CacheCodec with_bits(const CacheScheme& scheme, int bits) {
  Scheme rows = default_scheme(bits, scheme.dim, scheme.rows.rotation, scheme.rows.seed);
  rows.norm = scheme.rows.norm;
  return CacheCodec(plain_scheme(rows));
}

std::unique_ptr<CacheMethod> make_cache_method(std::vector<std::shared_ptr<const CacheCodec>> codecs, const Backend& backend,
                                               int threads, std::vector<std::shared_ptr<const CacheCodec>> readers) {
  return std::make_unique<CodecMethod>(std::move(codecs), backend, threads, std::move(readers));
}

}  // namespace tq
