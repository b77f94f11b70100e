#include "cli/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <tuple>

#include "cli/terminal.h"
#include "lib/error.h"
#include "lib/parallel.h"

namespace tq::cli {
namespace {
constexpr int kMostThreads = 1024;
}

void SchemeOptions::declare(CLI::App& app) {
  const auto bits_range = CLI::Range(kMinBits, kMaxBits);
  const auto add = [&](CLI::Option* option) {
    all_.push_back(option->group("Scheme"));
    return option;
  };
  CLI::Option* bits = add(app.add_option("--bits", bits_, "bits of a value, K and V alike, 1..8")->check(bits_range)
                              ->delimiter(',')->allow_extra_args(false)->default_str("4")->type_name("INT"));
  CLI::Option* k = add(app.add_option("--k-bits", scheme_.k_bits, "bits of a value of K, 1..8")->check(bits_range));
  CLI::Option* v = add(app.add_option("--v-bits", scheme_.v_bits, "bits of a value of V, 1..8")->check(bits_range));
  k->needs(v)->excludes(bits);
  v->needs(k)->excludes(bits);
  given_bits_ = bits;
  given_k_bits_ = k;
  add(app.add_option("--rotation", rotation_,
                     "rht2: signs, Hadamard, signs; rht1: signs, Hadamard; qr: Haar (rht2 and rht1 too at dims that have no "
                     "Hadamard matrix); identity: none, for comparison")
          ->check(CLI::IsMember({"rht2", "rht1", "qr", "identity"})));
  add(app.add_option("--k-seed", scheme_.k_seed, "seed of the rotation of K, 0..2^32-1")->check(not_empty()));
  add(app.add_option("--v-seed", scheme_.v_seed, "seed of the rotation of V, 0..2^32-1")->check(not_empty()));
  given_norm_ = add(app.add_option("--norm", norm_,
                     "what is stored as a row's norm: raw; corrected (the reconstruction keeps the norm); least-squares")
          ->check(CLI::IsMember({"raw", "corrected", "least-squares"})));
  add(app.add_option("--norm-dtype", norm_dtype_, "type of the norms: f32 (4 bytes a row) or f16 (2 bytes, 6e-8 to 65504)")
          ->check(CLI::IsMember({"f32", "f16"})));
  add(app.add_flag("--qjl-keys", scheme_.qjl_keys,
                   "K: one bit less for the codes, and a sign sketch of the residual (TurboQuant_prod) for unbiased inner "
                   "products; at equal bits it is worse for softmax attention"));
  add(app.add_option("--effort", scheme_.effort, "of the encoder, 0..3: 0 takes the nearest level, 1 to 3 search each row's scale, "
                                                 "with least-squares norms: better codes for the same decoder, slower")->check(CLI::Range(0, 3)));
  const auto remedy = [&](CLI::Option* option) {
    all_.push_back(option->group("Remedies (docs/verification.md)"));
    return option;
  };
  remedy(app.add_flag("--k-center", scheme_.center_keys,
                      "subtract from K its mean over the tokens, a head and channel, before coding; 2 bytes a channel and head"));
  given_outliers_ = remedy(app.add_option("--outlier-channels", outliers_,
                                          "the C channels of each head with the most energy, 8..1016, have BITS bits, more than the "
                                          "others, and a rotation of their own; K and V")->type_name("C:BITS"));
  given_boundary_ = remedy(app.add_option("--boundary-layers", boundary_,
                                          "the first N and the last N layers have BITS bits, 1..8, or 16: kept as they are "
                                          "(default 16)")->type_name("N[:BITS]"));
  remedy(app.add_option("--sink-tokens", scheme_.sinks, "the first S tokens are kept in 16 bits, 0..1048576")
             ->check(CLI::Range(0, kMaxExactTokens)));
  remedy(app.add_option("--residual-window", scheme_.recent, "the newest W tokens are kept in 16 bits, 0..1048576")
             ->check(CLI::Range(0, kMaxExactTokens)));
  remedy(app.add_option("--group-values", scheme_.group_values,
                        "V: minimum and step of each G channels of a token, both F16, in place of TurboQuant, as KIVI; G divides the "
                        "channels of V, 8..1024")->check(CLI::Range(kMinDim, kMaxRowDim))->default_str(""));
  given_scheme_file_ = remedy(app.add_option("--scheme", scheme_file_,
                                             "a JSON file with bits for single layers and heads (docs/verification.md); it wins over "
                                             "--boundary-layers and, where it has k_bits and v_bits, over --bits")->type_name("FILE"));
}

namespace {

/// "32:3" in two whole numbers; the second is `otherwise` where it is left out.
std::pair<int, int> parse_pair(const char* option, const std::string& text, std::optional<int> otherwise) {
  const std::size_t colon = text.find(':');
  const auto number = [&](const std::string& part) {
    int value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc() || end != part.data() + part.size() || value < 0) {
      throw UsageError(fmt::format("{} '{}': give {}", option, text, otherwise ? "N or N:BITS, such as 2 or 2:8" : "C:BITS, such as 32:3"));
    }
    return value;
  };
  if (colon == std::string::npos && otherwise) return {number(text), *otherwise};
  return {number(text.substr(0, colon)), number(colon == std::string::npos ? "" : text.substr(colon + 1))};
}

}  // namespace

KvSchemeOptions SchemeOptions::resolve() const {
  KvSchemeOptions scheme = scheme_;
  if (bits_.size() != 1) throw UsageError("--bits: give one number, 1..8; --k-bits and --v-bits are apart");
  if (given_k_bits_->count() == 0) scheme.k_bits = scheme.v_bits = bits_.front();
  scheme.rotation = parse_rotation(rotation_);
  scheme.norm = parse_norm_mode(norm_);
  scheme.norm_dtype = norm_dtype_ == "f16" ? DType::kF16 : DType::kF32;
  if (scheme.effort > 0 && given_norm_->count() == 0) scheme.norm = NormMode::kLeastSquares;
  if (given_outliers_->count() > 0) {
    std::tie(scheme.outlier_channels, scheme.outlier_bits) = parse_pair("--outlier-channels", outliers_, std::nullopt);
    const bool fits = scheme.outlier_channels >= kMinDim && scheme.outlier_channels <= kMaxRowDim - kMinDim &&
                      scheme.outlier_bits >= kMinBits && scheme.outlier_bits <= kMaxBits;
    if (!fits) throw UsageError(fmt::format("--outlier-channels {}: C is {}..{} and BITS 1..8", outliers_, kMinDim, kMaxRowDim - kMinDim));
  }
  if (given_boundary_->count() > 0) {
    std::tie(scheme.boundary_layers, scheme.boundary_bits) = parse_pair("--boundary-layers", boundary_, kExactBits);
    const int bits = scheme.boundary_bits;
    if (bits != kExactBits && (bits < kMinBits || bits > kMaxBits)) {
      throw UsageError(fmt::format("--boundary-layers {}: BITS is 1..8, or 16 for rows that are kept", boundary_));
    }
  }
  if (given_scheme_file_->count() > 0) read_scheme_file(scheme_file_, scheme);
  scheme.check();
  return scheme;
}

std::vector<int> SchemeOptions::given_bits() const { return given_bits_->count() > 0 ? bits_ : std::vector<int>(); }

bool SchemeOptions::is_given(std::string_view name) const {
  return std::any_of(all_.begin(), all_.end(), [&](const CLI::Option* option) { return option->count() > 0 && option->get_name() == name; });
}

std::optional<std::string> SchemeOptions::first_given(std::string_view besides) const {
  for (const CLI::Option* option : all_) {
    if (option->count() > 0 && option->get_name() != besides) return option->get_name();
  }
  return std::nullopt;
}

std::uint64_t parse_size(const std::string& option, const std::string& text) {
  constexpr std::pair<std::string_view, std::uint64_t> kUnits[] = {
      {"", 1},           {"B", 1},           {"KB", 1000},      {"MB", 1000'000},  {"GB", 1000'000'000},
      {"TB", 1000'000'000'000}, {"KiB", 1ull << 10}, {"MiB", 1ull << 20}, {"GiB", 1ull << 30}, {"TiB", 1ull << 40}};
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  for (const auto& [name, factor] : kUnits) {
    if (error == std::errc() && unit == name && value > 0 && value <= (std::uint64_t{1} << 60) / factor) return value * factor;
  }
  throw UsageError(fmt::format("{}: '{}' is no size; give a whole number with B, KB, MB, GB, TB (decimal) or KiB, MiB, GiB, TiB",
                               option, text));
}

std::optional<DType> parse_output_dtype(const std::string& name) {
  if (name.empty()) return std::nullopt;
  return name == "f32" ? DType::kF32 : name == "f16" ? DType::kF16 : DType::kBf16;
}

ThreadOption::ThreadOption() : threads(default_threads()) {}

void ThreadOption::declare(CLI::App& app) {
  app.add_option("--threads", threads, "threads, 1..1024; no byte depends on it")->check(CLI::Range(1, kMostThreads));
}

void DeviceOption::declare(CLI::App& app, Runs runs) {
  app.add_option("--device", name_,
                 runs == Runs::kModels
                     ? "where models run, and codes are made and read: auto (a GPU where there is one), cpu, cuda or cuda:N; no code "
                       "depends on it, and numbers about attention and models only in digits that rounding reaches (docs/models.md)"
                     : "where codes are made and read: auto (a GPU where there is one), cpu, cuda or cuda:N; no byte depends on it")
      ->check(device_name());
}

Device DeviceOption::open() const {
  Device device = open_device(parse_device(name_));
  if (!device.note.empty()) warn(device.note);
  return device;
}

ModelDevice DeviceOption::open_model(const Device& device) {
  ModelDevice model = open_model_device(device);
  if (!model.note.empty()) warn(model.note);
  return model;
}

CLI::Validator device_name() {
  return CLI::Validator(
      [](std::string& text) {
        try {
          parse_device(text);
          return std::string();
        } catch (const UsageError& error) {
          return std::string(error.what());
        }
      },
      "DEVICE");
}

CLI::Validator not_negative() {
  return CLI::Validator(
      [](std::string& text) {
        double value = 0;
        const bool fine = CLI::detail::lexical_cast(text, value) && std::isfinite(value) && value >= 0;
        return fine ? std::string() : "must be a finite number, 0 or more: " + text;
      },
      "NUMBER >= 0");
}

CLI::Validator not_empty() {
  return CLI::Validator([](std::string& text) { return text.empty() ? std::string("needs a number") : std::string(); }, "");
}

CLI::Validator finite_range(double low, double high) {
  return CLI::Validator(
      [=](std::string& text) {
        double value = 0;
        const bool fine = CLI::detail::lexical_cast(text, value) && value >= low && value <= high;
        return fine ? std::string() : fmt::format("must be a number from {} to {}: {}", low, high, text);
      },
      fmt::format("{}..{}", low, high));
}

}  // namespace tq::cli
