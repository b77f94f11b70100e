#include "lib/cache/cache_streams.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "lib/convert.h"
#include "lib/error.h"

namespace tq {
namespace {

template <class T>
std::vector<std::byte> to_bytes(const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

template <class T>
void from_bytes(const std::vector<std::byte>& bytes, std::vector<T>& values) {
  values.resize(bytes.size() / sizeof(T));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
}

std::vector<std::byte> norms_to_bytes(const std::vector<float>& norms, DType dtype) {
  std::vector<std::byte> bytes(norms.size() * size_of(dtype));
  convert_from_float(norms.data(), static_cast<std::int64_t>(norms.size()), dtype, bytes.data());
  return bytes;
}

/// Refuses what no encoder writes, with the token where it stands.
class Checker {
 public:
  Checker(const std::string& where, int sinks) : where_(where), sinks_(sinks) {}

  std::vector<float> norms(const std::vector<std::byte>& bytes, DType dtype, const char* what) const {
    std::vector<float> values(bytes.size() / size_of(dtype));
    convert_to_float(dtype, bytes.data(), static_cast<std::int64_t>(values.size()), values.data());
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!std::isfinite(values[i]) || std::signbit(values[i])) refuse_row(i, fmt::format("{} is negative or not finite", what));
    }
    return values;
  }

  void pad_bits(const std::vector<std::uint8_t>& rows, int row_bits, const char* what) const {
    if (row_bits % 8 == 0) return;
    const auto bytes = static_cast<std::size_t>((row_bits + 7) / 8);
    const auto mask = static_cast<std::uint8_t>(0xff << (row_bits % 8));
    for (std::size_t row = 0; row < rows.size() / bytes; ++row) {
      if ((rows[(row + 1) * bytes - 1] & mask) != 0) refuse_row(row, fmt::format("the pad bits of {} are not zero", what));
    }
  }

  void halves(const std::vector<std::uint16_t>& values, DType dtype, const char* what, bool negative = true) const {
    const std::uint16_t infinity = dtype == DType::kF16 ? 0x7c00 : 0x7f80;
    const auto bad = std::find_if(values.begin(), values.end(), [&](std::uint16_t h) {
      return (h & 0x7fff) >= infinity || (!negative && (h & 0x8000) != 0);
    });
    if (bad != values.end()) refuse(fmt::format("{} holds a value that is {}not finite", what, negative ? "" : "negative or "));
  }

  [[noreturn]] void refuse(const std::string& problem) const {
    throw Error(fmt::format("{}: {}: the file is damaged or was not written by tq", where_, problem));
  }

 private:
  [[noreturn]] void refuse_row(std::size_t row, const std::string& problem) const {
    throw Error(fmt::format("{}, token {}: {}: the file is damaged or was not written by tq", where_,
                            sinks_ + static_cast<std::int64_t>(row), problem));
  }

  const std::string& where_;
  std::int64_t sinks_;
};

}  // namespace

std::uint64_t StreamSpec::bytes() const {
  std::uint64_t count = size_of(dtype);
  for (const std::int64_t n : shape) count *= static_cast<std::uint64_t>(n);
  return count;
}

std::vector<StreamSpec> list_streams(const CacheScheme& s, std::int64_t tokens) {
  const std::int64_t coded = s.coded_tokens(tokens);
  std::vector<StreamSpec> streams;
  if (s.kind == CacheKind::kTurboQuant) {
    streams.push_back({".codes", DType::kU8, {coded, s.rows.code_bytes()}});
    streams.push_back({".norms", s.rows.norm_dtype, {coded}});
    if (s.rows.qjl) {
      streams.push_back({".signs", DType::kU8, {coded, s.rows.sign_bytes()}});
      streams.push_back({".residual_norms", s.rows.norm_dtype, {coded}});
    }
    if (s.center) streams.push_back({".center", DType::kBf16, {s.dim}});
    if (s.outlier_channels > 0) {
      streams.push_back({".channels", DType::kU16, {s.outlier_channels}});
      streams.push_back({".outlier_codes", DType::kU8, {coded, s.outlier_rows.code_bytes()}});
      streams.push_back({".outlier_norms", s.outlier_rows.norm_dtype, {coded}});
    }
  }
  if (s.kind == CacheKind::kGroup) {
    const GroupShape shape{s.dim, s.group, s.group_bits};
    streams.push_back({".codes", DType::kU8, {coded, shape.code_bytes()}});
    streams.push_back({".steps", DType::kF16, {coded, shape.groups()}});
    streams.push_back({".minima", DType::kF16, {coded, shape.groups()}});
  }
  if (s.kind == CacheKind::kExact || s.sinks > 0 || s.recent > 0) {
    streams.push_back({".exact", s.exact_dtype, {tokens - coded, s.dim}});
  }
  return streams;
}

StreamBytes to_streams(const CacheScheme& s, const CodedHead& head) {
  StreamBytes out;
  if (s.kind == CacheKind::kTurboQuant) {
    out.push_back(to_bytes(head.rows.codes));
    out.push_back(norms_to_bytes(head.rows.norms, s.rows.norm_dtype));
    if (s.rows.qjl) {
      out.push_back(to_bytes(head.rows.signs));
      out.push_back(norms_to_bytes(head.rows.residual_norms, s.rows.norm_dtype));
    }
    if (s.center) out.push_back(to_bytes(head.center));
    if (s.outlier_channels > 0) {
      out.push_back(to_bytes(head.channels));
      out.push_back(to_bytes(head.outliers.codes));
      out.push_back(norms_to_bytes(head.outliers.norms, s.outlier_rows.norm_dtype));
    }
  }
  if (s.kind == CacheKind::kGroup) {
    out.push_back(to_bytes(head.groups.codes));
    out.push_back(to_bytes(head.groups.steps));
    out.push_back(to_bytes(head.groups.minima));
  }
  if (s.kind == CacheKind::kExact || s.sinks > 0 || s.recent > 0) out.push_back(to_bytes(head.exact));
  return out;
}

CodedHead from_streams(const CacheScheme& s, std::int64_t tokens, const StreamBytes& streams, const std::string& where) {
  const Checker check(where, s.sinks);
  CodedHead head;
  head.tokens = tokens;
  const std::int64_t coded = s.coded_tokens(tokens);
  auto next = streams.begin();
  if (s.kind == CacheKind::kTurboQuant) {
    head.rows.count = coded;
    from_bytes(*next++, head.rows.codes);
    check.pad_bits(head.rows.codes, s.rows.dim * s.rows.bits, "the codes");
    head.rows.norms = check.norms(*next++, s.rows.norm_dtype, "its norm");
    if (s.rows.qjl) {
      from_bytes(*next++, head.rows.signs);
      check.pad_bits(head.rows.signs, s.rows.dim, "its signs");
      head.rows.residual_norms = check.norms(*next++, s.rows.norm_dtype, "the norm of its residual");
    }
    if (s.center) {
      from_bytes(*next++, head.center);
      check.halves(head.center, DType::kBf16, "the mean");
    }
    if (s.outlier_channels > 0) {
      from_bytes(*next++, head.channels);
      const bool ascend = std::adjacent_find(head.channels.begin(), head.channels.end(), std::greater_equal<>()) == head.channels.end();
      if (!ascend || head.channels.back() >= s.dim) check.refuse(fmt::format("the channels do not ascend within 0..{}", s.dim - 1));
      head.outliers.count = coded;
      from_bytes(*next++, head.outliers.codes);
      check.pad_bits(head.outliers.codes, s.outlier_rows.dim * s.outlier_rows.bits, "the outliers' codes");
      head.outliers.norms = check.norms(*next++, s.outlier_rows.norm_dtype, "the norm of its outliers");
    }
  }
  if (s.kind == CacheKind::kGroup) {
    head.groups.count = coded;
    from_bytes(*next++, head.groups.codes);
    check.pad_bits(head.groups.codes, s.dim * s.group_bits, "the codes");
    from_bytes(*next++, head.groups.steps);
    check.halves(head.groups.steps, DType::kF16, "a step", false);
    from_bytes(*next++, head.groups.minima);
    check.halves(head.groups.minima, DType::kF16, "a minimum");
  }
  if (next != streams.end()) {
    from_bytes(*next++, head.exact);
    check.halves(head.exact, s.exact_dtype, "a row that is kept exactly");
  }
  return head;
}

}  // namespace tq
