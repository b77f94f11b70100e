// Options that several subcommands share, so that they read and behave the same everywhere.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/cache/kv_options.h"
#include "lib/device.h"

namespace tq::cli {

/// --bits | --k-bits --v-bits, --rotation, --k-seed, --v-seed, --norm, --norm-dtype, --qjl-keys, --effort, and the remedies.
class SchemeOptions {
 public:
  void declare(CLI::App& app);
  bool is_given(std::string_view name) const;
  /// What was given, --bits copied to K and V. Throws UsageError for values that do not go together.
  KvSchemeOptions resolve() const;
  /// The name of a scheme option that was given, other than `besides`, or nothing.
  std::optional<std::string> first_given(std::string_view besides = {}) const;
  /// What was given with --bits, as a list; only `tq verify --paper` takes more than one.
  std::vector<int> given_bits() const;

 private:
  std::vector<int> bits_ = {4};
  KvSchemeOptions scheme_;
  std::string rotation_ = "rht2";
  std::string norm_ = "raw";
  std::string norm_dtype_ = "f32";
  std::string outliers_, boundary_, scheme_file_;
  CLI::Option* given_bits_ = nullptr;
  CLI::Option* given_k_bits_ = nullptr;
  CLI::Option* given_norm_ = nullptr;
  CLI::Option* given_outliers_ = nullptr;
  CLI::Option* given_boundary_ = nullptr;
  CLI::Option* given_scheme_file_ = nullptr;
  std::vector<const CLI::Option*> all_;
};

/// "5GB", "500MiB", "1000" in bytes, decimal and binary units, at least 1. Throws UsageError that names the option.
std::uint64_t parse_size(const std::string& option, const std::string& text);

/// "f32", "f16" or "bf16"; nothing for the empty text.
std::optional<DType> parse_output_dtype(const std::string& name);

/// Checks of numbers. CLI11's own ranges let NaN pass, and print infinity in 309 digits.
CLI::Validator not_negative();
CLI::Validator not_empty();  ///< CLI11 reads "" as the unsigned number 0
CLI::Validator finite_range(double low, double high);

/// --threads: 1..1024, default all that the machine runs at once.
struct ThreadOption {
  int threads;
  ThreadOption();
  void declare(CLI::App& app);
};

CLI::Validator device_name();  ///< what parse_device() takes

/// --device: auto (default), cpu, cuda or cuda:N.
class DeviceOption {
 public:
  enum class Runs { kCodec, kModels };  ///< kModels: attention and forward passes, too
  void declare(CLI::App& app, Runs runs = Runs::kCodec);
  /// Throws UsageError for a name that is none, and Error where the device that was asked for is not there. Says on stderr why
  /// auto leaves a GPU that is there unused.
  Device open() const;
  /// open_model_device(); says on stderr why auto leaves a GPU unused.
  static ModelDevice open_model(const Device& device);

 private:
  std::string name_ = "auto";
};

}  // namespace tq::cli
