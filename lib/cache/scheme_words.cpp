#include "lib/cache/scheme_words.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <vector>

#include "lib/error.h"

namespace tq {
namespace {

void read_extra(const std::string& name, std::string_view word, KvSchemeOptions& options) {
  const std::string_view whole = word;
  const auto take = [&](std::string_view prefix) {
    if (!word.starts_with(prefix)) return false;
    word.remove_prefix(prefix.size());
    return true;
  };
  const auto number = [&](int low, int high) {
    const std::optional<int> value = take_number(word);
    if (!value || *value < low || *value > high) refuse_scheme(name, fmt::format("'{}' wants a number from {} to {}", whole, low, high));
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
      if (!take(":")) refuse_scheme(name, fmt::format("'{}' wants a colon and bits", whole));
      options.outlier_bits = number(kMinBits, kMaxBits);
    } else if (take("boundary")) {
      options.boundary_layers = number(1, 1 << 16);
      if (take(":")) options.boundary_bits = number(kMinBits, kExactBits);
      if (!is_width(options.boundary_bits)) refuse_scheme(name, fmt::format("'{}': bits are 1..8 or 16", whole));
    } else if (take("sinks")) {
      options.sinks = number(1, kMaxExactTokens);
    } else if (take("recent")) {
      options.recent = number(1, kMaxExactTokens);
    } else if (take("group")) {
      options.group_values = number(kMinDim, kMaxRowDim);
    } else if (take("effort")) {
      options.effort = number(0, 3);
    } else {
      refuse_scheme(name, fmt::format("'{}' is not known: qjl, center, outliersC:B, boundaryN[:B], sinksS, recentW, groupG, effortE, "
                               "corrected, least-squares, f16-norms, rht1, qr, identity", whole));
    }
    if (!word.empty()) refuse_scheme(name, fmt::format("'{}' does not end where it should", whole));
  }
}

}  // namespace

void refuse_scheme(const std::string& name, const std::string& what) {
  throw UsageError(fmt::format("scheme '{}': {}", name, what));
}

std::optional<int> take_number(std::string_view& text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value < 0) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

void read_scheme_words(std::string_view words, const std::string& name, KvSchemeOptions& options) {
  for (std::size_t at = 0; at <= words.size();) {
    const std::size_t end = std::min(words.find('+', at), words.size());
    read_extra(name, words.substr(at, end - at), options);
    at = end + 1;
  }
  if (options.effort == 0) return;
  if (options.norm == NormMode::kCorrected) refuse_scheme(name, "effort1 to effort3 have least-squares norms, and corrected does not go with them");
  options.norm = NormMode::kLeastSquares;
}

std::string format_scheme_words(const KvSchemeOptions& o) {
  std::vector<std::string> words;
  if (o.rotation != RotationKind::kRht2) words.emplace_back(name_of(o.rotation));
  if (o.norm != NormMode::kRaw) words.emplace_back(name_of(o.norm));
  if (o.norm_dtype == DType::kF16) words.emplace_back("f16-norms");
  if (o.effort > 0) words.push_back(fmt::format("effort{}", o.effort));
  if (o.qjl_keys) words.emplace_back("qjl");
  if (o.center_keys) words.emplace_back("center");
  if (o.outlier_channels > 0) words.push_back(fmt::format("outliers{}:{}", o.outlier_channels, o.outlier_bits));
  if (o.boundary_layers > 0) words.push_back(fmt::format("boundary{}:{}", o.boundary_layers, o.boundary_bits));
  if (o.sinks > 0) words.push_back(fmt::format("sinks{}", o.sinks));
  if (o.recent > 0) words.push_back(fmt::format("recent{}", o.recent));
  if (o.group_values > 0) words.push_back(fmt::format("group{}", o.group_values));
  return fmt::format("{}", fmt::join(words, "+"));
}

}  // namespace tq
