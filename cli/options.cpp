#include "cli/options.h"

#include "lib/parallel.h"

namespace tq::cli {
namespace {
constexpr int kMostThreads = 1024;
}

void SchemeOptions::declare(CLI::App& app) {
  const auto bits_range = CLI::Range(kMinBits, kMaxBits);
  given_bits = app.add_option("--bits", bits, "bits of a code, K and V alike, 1..8")->check(bits_range)->group("Scheme");
  given_k_bits = app.add_option("--k-bits", k_bits, "bits of a code of K, 1..8")->check(bits_range)->group("Scheme");
  CLI::Option* v = app.add_option("--v-bits", v_bits, "bits of a code of V, 1..8")->check(bits_range)->group("Scheme");
  given_k_bits->needs(v)->excludes(given_bits);
  v->needs(given_k_bits)->excludes(given_bits);
  given_rotation = app.add_option("--rotation", rotation,
                                  "rht2: signs, Hadamard, signs (Haar QR at dims that have no Hadamard matrix); qr: Haar QR")
                       ->check(CLI::IsMember({"rht2", "qr"}))
                       ->group("Scheme");
  given_k_seed = app.add_option("--k-seed", k_seed, "seed of the rotation of K, 0..2^32-1")->group("Scheme");
  given_v_seed = app.add_option("--v-seed", v_seed, "seed of the rotation of V, 0..2^32-1")->group("Scheme");
}

void SchemeOptions::resolve() {
  if (given_k_bits->count() == 0) k_bits = v_bits = bits;
}

std::optional<std::string> SchemeOptions::first_given() const {
  for (const CLI::Option* option : {given_bits, given_k_bits, given_rotation, given_k_seed, given_v_seed}) {
    if (option->count() > 0) return option->get_name();
  }
  return std::nullopt;
}

ThreadOption::ThreadOption() : threads(default_threads()) {}

void ThreadOption::declare(CLI::App& app) {
  app.add_option("--threads", threads, "threads, 1..1024; no byte depends on it")->check(CLI::Range(1, kMostThreads));
}

}  // namespace tq::cli
