#include "lib/cache/cache_scheme.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <vector>

#include "lib/error.h"

namespace tq {
namespace {

constexpr std::string_view kGroupVersion = "group/1";
constexpr std::string_view kExactVersion = "exact/1";
constexpr std::size_t kSchemeWords = 9;  // of a Scheme's text, its version included
constexpr std::int64_t kScaleBytes = 4;  // of a group: scale and minimum in F16

std::vector<std::string_view> split_words(std::string_view text) {
  std::vector<std::string_view> words;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    words.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

/// The fields behind the version word, taken from the front.
class Words {
 public:
  Words(std::vector<std::string_view> words, const std::string& where) : words_(std::move(words)), where_(where) {}

  bool has(std::string_view key) const {
    return next_ < words_.size() && words_[next_].size() > key.size() && words_[next_].starts_with(key) &&
           words_[next_][key.size()] == '=';
  }
  std::string_view take(std::string_view key) {
    if (!has(key)) fail(fmt::format("'{}=' is expected", key));
    return words_[next_++].substr(key.size() + 1);
  }
  int number(std::string_view text, std::string_view key, int low, int high) const {
    int value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
      fail(fmt::format("{}: '{}' is not a number from {} to {}", key, text, low, high));
    }
    return value;
  }
  DType half_type(std::string_view text) const {
    if (text == "BF16") return DType::kBf16;
    if (text == "F16") return DType::kF16;
    fail(fmt::format("'{}' is neither BF16 nor F16", text));
  }
  /// Takes what stands before `separator` from the front of `text`.
  std::string_view cut(std::string_view& text, char separator, std::string_view key) const {
    const std::size_t end = text.find(separator);
    if (end == text.npos) fail(fmt::format("{} has no '{}'", key, separator));
    const std::string_view part = text.substr(0, end);
    text.remove_prefix(end + 1);
    return part;
  }
  void expect_end() const {
    if (next_ < words_.size()) fail(fmt::format("'{}' is not known to this version of tq, or not in its place", words_[next_]));
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(fmt::format("{}: cannot read the scheme: {}", where_, what));
  }

 private:
  std::vector<std::string_view> words_;
  std::size_t next_ = 0;
  const std::string& where_;
};

void parse_exact_tokens(Words& words, CacheScheme& scheme) {
  if (!words.has("exact")) return;
  std::string_view text = words.take("exact");
  scheme.sinks = words.number(words.cut(text, '+', "exact"), "exact", 0, kMaxExactTokens);
  scheme.recent = words.number(words.cut(text, ':', "exact"), "exact", 0, kMaxExactTokens);
  scheme.exact_dtype = words.half_type(text);
  if (scheme.sinks == 0 && scheme.recent == 0) words.fail("exact=0+0 keeps no token");
}

CacheScheme parse_turboquant(std::string_view text, const std::vector<std::string_view>& all, const std::string& where) {
  const std::size_t count = std::min(all.size(), kSchemeWords);
  const auto head_size = static_cast<std::size_t>(all[count - 1].data() + all[count - 1].size() - text.data());
  CacheScheme scheme = plain_scheme(parse_scheme(text.substr(0, head_size), where));
  Words words({all.begin() + static_cast<std::ptrdiff_t>(count), all.end()}, where);
  if (words.has("center")) {
    if (words.take("center") != "mean") words.fail("center is 'mean' or not there");
    scheme.center = true;
  }
  if (words.has("outliers")) {
    std::string_view field = words.take("outliers");
    scheme.outlier_channels = words.number(words.cut(field, ':', "outliers"), "outliers", kMinDim, kMaxRowDim - kMinDim);
    scheme.outlier_rows = scheme.rows;
    scheme.outlier_rows.dim = scheme.outlier_channels;
    scheme.outlier_rows.bits = words.number(words.cut(field, ':', "outliers"), "outliers", kMinBits, kMaxBits);
    scheme.outlier_rows.codebook = field;
    if (field.empty()) words.fail("the codebook of the outliers has no name");
    if (scheme.rows.qjl) words.fail("outliers do not go with a sketch");
    scheme.dim = scheme.rows.dim + scheme.outlier_channels;
    if (scheme.dim > kMaxRowDim) words.fail(fmt::format("rows of {} elements, and {} is the most", scheme.dim, kMaxRowDim));
  }
  parse_exact_tokens(words, scheme);
  words.expect_end();
  return scheme;
}

CacheScheme parse_other(const std::vector<std::string_view>& all, const std::string& where) {
  Words words({all.begin() + 1, all.end()}, where);
  CacheScheme scheme;
  if (all.front() == kExactVersion) {
    const int dim = words.number(words.take("dim"), "dim", kMinDim, kMaxRowDim);
    scheme = exact_scheme(dim, words.half_type(words.take("dtype")));
  } else if (all.front() == kGroupVersion) {
    const int bits = words.number(words.take("bits"), "bits", kMinBits, kMaxBits);
    const int dim = words.number(words.take("dim"), "dim", kMinDim, kMaxRowDim);
    const int group = words.number(words.take("group"), "group", kMinDim, dim);
    if (dim % group != 0) words.fail(fmt::format("group={} does not divide dim={}", group, dim));
    scheme = group_scheme(bits, dim, group);
    parse_exact_tokens(words, scheme);
  } else {
    words.fail(fmt::format("it starts with '{}', and this version of tq reads tq/1, {} and {}", all.front(), kGroupVersion,
                           kExactVersion));
  }
  words.expect_end();
  return scheme;
}

std::string format_exact_tokens(const CacheScheme& s) {
  if (s.sinks == 0 && s.recent == 0) return "";
  return fmt::format(" exact={}+{}:{}", s.sinks, s.recent, name_of(s.exact_dtype));
}

}  // namespace

std::int64_t CacheScheme::coded_tokens(std::int64_t tokens) const {
  return kind == CacheKind::kExact ? 0 : std::max<std::int64_t>(0, tokens - sinks - recent);
}

double CacheScheme::average_bits() const {
  if (kind == CacheKind::kExact) return 16;
  if (kind == CacheKind::kGroup) return group_bits;
  return static_cast<double>(rows.total_bits() * rows.dim + (outlier_channels > 0 ? outlier_rows.bits * outlier_channels : 0)) / dim;
}

double CacheScheme::value_bits(std::int64_t heads, std::int64_t tokens) const {
  const std::int64_t coded = coded_tokens(tokens);
  const double of_channel = average_bits() * static_cast<double>(coded) + 16.0 * static_cast<double>(tokens - coded);
  return static_cast<double>(heads * dim) * of_channel;
}

std::int64_t CacheScheme::row_bytes() const {
  if (kind == CacheKind::kExact) return std::int64_t{2} * dim;
  if (kind == CacheKind::kGroup) return (std::int64_t{dim} * group_bits + 7) / 8 + kScaleBytes * (dim / group);
  return rows.row_bytes() + (outlier_channels > 0 ? outlier_rows.row_bytes() : 0);
}

std::uint64_t CacheScheme::bytes(std::int64_t heads, std::int64_t tokens) const {
  const std::int64_t coded = coded_tokens(tokens);
  const std::int64_t of_head = coded * row_bytes() + (tokens - coded) * 2 * dim + (center ? 2 * dim : 0) + 2 * outlier_channels;
  return static_cast<std::uint64_t>(heads * of_head);
}

CacheScheme plain_scheme(const Scheme& rows) {
  CacheScheme scheme;
  scheme.dim = rows.dim;
  scheme.rows = rows;
  return scheme;
}

CacheScheme group_scheme(int bits, int dim, int group) {
  CacheScheme scheme;
  scheme.kind = CacheKind::kGroup;
  scheme.dim = dim;
  scheme.group_bits = bits;
  scheme.group = group;
  return scheme;
}

CacheScheme exact_scheme(int dim, DType dtype) {
  CacheScheme scheme;
  scheme.kind = CacheKind::kExact;
  scheme.dim = dim;
  scheme.exact_dtype = dtype;
  return scheme;
}

std::string format_cache_scheme(const CacheScheme& s) {
  if (s.kind == CacheKind::kExact) return fmt::format("{} dim={} dtype={}", kExactVersion, s.dim, name_of(s.exact_dtype));
  if (s.kind == CacheKind::kGroup) {
    return fmt::format("{} bits={} dim={} group={}{}", kGroupVersion, s.group_bits, s.dim, s.group, format_exact_tokens(s));
  }
  std::string text = format_scheme(s.rows);
  if (s.center) text += " center=mean";
  if (s.outlier_channels > 0) {
    text += fmt::format(" outliers={}:{}:{}", s.outlier_channels, s.outlier_rows.bits, s.outlier_rows.codebook);
  }
  return text + format_exact_tokens(s);
}

CacheScheme parse_cache_scheme(std::string_view text, const std::string& where) {
  const std::vector<std::string_view> words = split_words(text);
  const CacheScheme scheme = words.front().starts_with("tq/") ? parse_turboquant(text, words, where) : parse_other(words, where);
  if (format_cache_scheme(scheme) != text) {
    throw Error(fmt::format("{}: cannot read the scheme: numbers have no sign and no leading zero, and single spaces stand "
                            "between fields", where));
  }
  return scheme;
}

}  // namespace tq
