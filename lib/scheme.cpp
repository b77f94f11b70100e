#include "lib/scheme.h"

#include <fmt/format.h>

#include <array>
#include <charconv>

#include "lib/error.h"

namespace tq {
namespace {

constexpr std::string_view kVersion = "tq/1";
using Name = std::string_view;
constexpr std::array kRotations = {Name("rht2"), Name("rht1"), Name("qr"), Name("identity")};
constexpr std::array kNorms = {Name("raw"), Name("corrected"), Name("least-squares")};
constexpr std::array kNormDTypes = {Name("F32"), Name("F16")};

template <std::size_t N>
int find_name(const std::array<std::string_view, N>& names, std::string_view name) {
  for (std::size_t i = 0; i < N; ++i) {
    if (names[i] == name) return static_cast<int>(i);
  }
  return -1;
}

template <std::size_t N>
int parse_name(std::string_view what, const std::array<Name, N>& names, std::string_view name) {
  const int index = find_name(names, name);
  if (index < 0) throw UsageError(fmt::format("unknown {} '{}': use one of {}", what, name, fmt::join(names, ", ")));
  return index;
}

/// Takes "key=value" from the front of `text`, and checks the key.
class FieldReader {
 public:
  FieldReader(std::string_view text, const std::string& where) : rest_(text), where_(where) {}

  std::string_view next_word() {
    const std::size_t end = rest_.find(' ');
    const std::string_view word = rest_.substr(0, end);
    rest_ = end == std::string_view::npos ? std::string_view() : rest_.substr(end + 1);
    return word;
  }

  std::string_view next(std::string_view key) {
    const std::string_view word = next_word();
    const std::size_t equals = word.find('=');
    if (equals == std::string_view::npos || word.substr(0, equals) != key) {
      fail(fmt::format("'{}' stands where '{}=' is expected", word, key));
    }
    return word.substr(equals + 1);
  }

  template <class Int>
  Int next_number(std::string_view key, Int low, Int high) {
    const std::string_view text = next(key);
    Int value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
      fail(fmt::format("{}={} is not a number from {} to {}", key, text, low, high));
    }
    return value;
  }

  /// "none" or a 32-bit number.
  std::optional<std::uint32_t> next_optional_number(std::string_view key) {
    const FieldReader before = *this;
    if (next(key) == "none") return std::nullopt;
    rest_ = before.rest_;
    return next_number<std::uint32_t>(key, 0, 0xffffffffu);
  }

  template <std::size_t N>
  int next_name(std::string_view key, const std::array<std::string_view, N>& names) {
    const std::string_view text = next(key);
    const int index = find_name(names, text);
    if (index < 0) fail(fmt::format("{}={} is not known to this version of tq", key, text));
    return index;
  }

  void expect_end() {
    if (!rest_.empty()) fail(fmt::format("'{}' is not known to this version of tq", rest_));
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(fmt::format("{}: cannot read the scheme: {}", where_, what));
  }

 private:
  std::string_view rest_;
  const std::string& where_;
};

}  // namespace

std::string_view name_of(RotationKind kind) { return kRotations[static_cast<std::size_t>(kind)]; }
std::string_view name_of(NormMode mode) { return kNorms[static_cast<std::size_t>(mode)]; }

RotationKind parse_rotation(std::string_view name) {
  return static_cast<RotationKind>(parse_name("rotation", kRotations, name));
}
NormMode parse_norm_mode(std::string_view name) { return static_cast<NormMode>(parse_name("norm mode", kNorms, name)); }

Scheme default_scheme(int bits, int dim, RotationKind rotation, std::uint32_t seed) {
  Scheme scheme;
  scheme.bits = bits;
  scheme.dim = dim;
  scheme.rotation = rotation;
  scheme.seed = seed;
  scheme.codebook = fmt::format("beta-d{}-b{}", dim, bits);
  return scheme;
}

std::string format_scheme(const Scheme& s) {
  return fmt::format("{} bits={} dim={} rotation={} seed={} codebook={} norm={} norm_dtype={} qjl={}", kVersion, s.bits,
                     s.dim, name_of(s.rotation), s.seed, s.codebook, name_of(s.norm), name_of(s.norm_dtype),
                     s.qjl ? std::to_string(*s.qjl) : "none");
}

Scheme parse_scheme(std::string_view text, const std::string& where) {
  FieldReader reader(text, where);
  if (const std::string_view version = reader.next_word(); version != kVersion) {
    reader.fail(fmt::format("it starts with '{}', and this version of tq reads '{}'", version, kVersion));
  }
  Scheme s;
  s.bits = reader.next_number("bits", kMinBits, kMaxBits);
  s.dim = reader.next_number("dim", kMinDim, kMaxRowDim);
  s.rotation = static_cast<RotationKind>(reader.next_name("rotation", kRotations));
  s.seed = reader.next_number<std::uint32_t>("seed", 0, 0xffffffffu);
  s.codebook = reader.next("codebook");
  if (s.codebook.empty()) reader.fail("the codebook has no name");
  s.norm = static_cast<NormMode>(reader.next_name("norm", kNorms));
  s.norm_dtype = reader.next_name("norm_dtype", kNormDTypes) == 0 ? DType::kF32 : DType::kF16;
  s.qjl = reader.next_optional_number("qjl");
  reader.expect_end();
  if (format_scheme(s) != text) reader.fail("numbers have no sign and no leading zero, and single spaces stand between fields");
  return s;
}

}  // namespace tq
