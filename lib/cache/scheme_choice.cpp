#include "lib/cache/scheme_choice.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "lib/error.h"

namespace tq {
namespace {

[[noreturn]] void refuse(const std::string& name, const std::string& what) {
  throw UsageError(fmt::format("scheme '{}': {}", name, what));
}

/// A whole number from the front of `text`, which is left behind it.
std::optional<int> take_number(std::string_view& text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value < 0) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

bool is_width(int bits) { return (bits >= kMinBits && bits <= kMaxBits) || bits == kExactBits; }

/// "k4v3" or "tq4".
bool read_bits(std::string_view text, KvSchemeOptions& options) {
  const bool both = text.starts_with("tq");
  if (!both && !text.starts_with("k")) return false;
  text.remove_prefix(both ? 2 : 1);
  const std::optional<int> k = take_number(text);
  if (!k) return false;
  options.k_bits = options.v_bits = *k;
  if (both) return text.empty();
  if (!text.starts_with("v")) return false;
  text.remove_prefix(1);
  const std::optional<int> v = take_number(text);
  if (!v || !text.empty()) return false;
  options.v_bits = *v;
  return true;
}

/// A word behind a plus.
void read_extra(const std::string& name, std::string_view word, KvSchemeOptions& options) {
  const std::string_view whole = word;
  const auto take = [&](std::string_view prefix) {
    if (!word.starts_with(prefix)) return false;
    word.remove_prefix(prefix.size());
    return true;
  };
  const auto number = [&](int low, int high) {
    const std::optional<int> value = take_number(word);
    if (!value || *value < low || *value > high) refuse(name, fmt::format("'{}' wants a number from {} to {}", whole, low, high));
    return *value;
  };
  if (word == "qjl") {
    options.qjl_keys = true;
  } else if (word == "center") {
    options.center_keys = true;
  } else if (word == "corrected") {
    options.norm = NormMode::kCorrected;
  } else if (word == "least-squares") {
    options.norm = NormMode::kLeastSquares;
  } else if (word == "f16-norms") {
    options.norm_dtype = DType::kF16;
  } else if (word == "rht1" || word == "qr" || word == "identity") {
    options.rotation = parse_rotation(word);
  } else {
    if (take("outliers")) {
      options.outlier_channels = number(kMinDim, kMaxRowDim - kMinDim);
      if (!take(":")) refuse(name, fmt::format("'{}' wants a colon and bits", whole));
      options.outlier_bits = number(kMinBits, kMaxBits);
    } else if (take("boundary")) {
      options.boundary_layers = number(1, 1 << 16);
      if (take(":")) options.boundary_bits = number(kMinBits, kExactBits);
      if (!is_width(options.boundary_bits)) refuse(name, fmt::format("'{}': bits are 1..8 or 16", whole));
    } else if (take("sinks")) {
      options.sinks = number(1, kMaxExactTokens);
    } else if (take("recent")) {
      options.recent = number(1, kMaxExactTokens);
    } else if (take("group")) {
      options.group_values = number(kMinDim, kMaxRowDim);
    } else if (take("effort")) {
      options.effort = number(0, 3);
      if (options.effort > 0) options.norm = NormMode::kLeastSquares;
    } else {
      refuse(name, fmt::format("'{}' is not known: qjl, center, outliersC:B, boundaryN[:B], sinksS, recentW, groupG, effortE, "
                               "corrected, least-squares, f16-norms, rht1, qr, identity", whole));
    }
    if (!word.empty()) refuse(name, fmt::format("'{}' does not end where it should", whole));
  }
}

/// One codec, or one a head where they differ.
std::shared_ptr<const CacheMethod> make_own(KvCodecs& codecs, KvPart part, const CacheShape& shape, const Backend& backend,
                                            int threads) {
  const bool keys = part == KvPart::kKeys;
  const int dim = keys ? shape.k_dim : shape.v_dim;
  const DType dtype = keys ? shape.k_dtype : shape.v_dtype;
  const std::int64_t heads = codecs.options().differs_by_head(part, shape.place) ? shape.kv_heads : 1;
  std::vector<std::shared_ptr<const CacheCodec>> of_heads;
  for (std::int64_t head = 0; head < heads; ++head) of_heads.push_back(codecs.find(part, shape.place, head, dim, dtype));
  return make_cache_method(std::move(of_heads), backend, threads);
}

}  // namespace

SchemeChoice parse_scheme_choice(const std::string& name) {
  const std::vector<std::string_view> known = foreign_cache_names();
  if (std::find(known.begin(), known.end(), name) != known.end()) return {name, std::nullopt};
  KvSchemeOptions options;
  std::string_view rest = name;
  const std::size_t end = std::min(rest.find('+'), rest.size());
  if (!read_bits(rest.substr(0, end), options) || !is_width(options.k_bits) || !is_width(options.v_bits)) {
    refuse(name, fmt::format("is neither kAvB or tqN with 1 to 8 bits (or 16), as in k4v3, nor one of {}", fmt::join(known, ", ")));
  }
  rest.remove_prefix(end);
  while (!rest.empty()) {
    rest.remove_prefix(1);
    const std::size_t next = std::min(rest.find('+'), rest.size());
    read_extra(name, rest.substr(0, next), options);
    rest.remove_prefix(next);
  }
  try {
    options.check();
  } catch (const UsageError& error) {
    refuse(name, error.what());
  }
  return {name, options};
}

CacheMaker::CacheMaker(const SchemeChoice& choice, const Backend& backend, int threads)
    : name_(choice.name), backend_(backend), threads_(threads) {
  if (choice.options) codecs_.emplace(*choice.options);
}

LayerCache CacheMaker::make(const CacheShape& shape) {
  if (!codecs_) {
    CachePair pair = make_foreign_cache(name_, shape.k_dim, shape.v_dim);
    return {std::move(pair.k), std::move(pair.v)};
  }
  return {make_own(*codecs_, KvPart::kKeys, shape, backend_, threads_), make_own(*codecs_, KvPart::kValues, shape, backend_, threads_)};
}

}  // namespace tq
