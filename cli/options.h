// Options that several subcommands share, so that they read and behave the same everywhere.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "lib/scheme.h"

namespace tq::cli {

/// --bits | --k-bits --v-bits, --rotation, --k-seed, --v-seed.
struct SchemeOptions {
  int bits = 4;
  int k_bits = 4;
  int v_bits = 4;
  std::string rotation = "rht2";
  std::uint32_t k_seed = kDefaultSeed;
  std::uint32_t v_seed = kDefaultSeed;
  CLI::Option* given_bits = nullptr;
  CLI::Option* given_k_bits = nullptr;
  CLI::Option* given_rotation = nullptr;
  CLI::Option* given_k_seed = nullptr;
  CLI::Option* given_v_seed = nullptr;

  void declare(CLI::App& app);
  /// Copies --bits into k_bits and v_bits unless those were given.
  void resolve();
  /// The name of a scheme option that was given, or nothing.
  std::optional<std::string> first_given() const;
};

/// --threads: 1..1024, default all that the machine runs at once.
struct ThreadOption {
  int threads;
  ThreadOption();
  void declare(CLI::App& app);
};

}  // namespace tq::cli
