// tq codebook: solves and prints Lloyd-Max codebooks, and regenerates the frozen set.
#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "lib/codebook.h"
#include "lib/io/atomic_file.h"
#include "lib/scheme.h"
#include "lib/solver/freeze.h"
#include "lib/solver/lloyd_max.h"

namespace tq::cli {
namespace {

struct Options {
  int dim = 0;
  int bits = 0;
  std::string density = "beta";
  std::string format = "table";
  std::string output;
  bool all = false;
  bool force = false;
};

double shannon_ratio(const SolvedCodebook& book) { return book.distortion / shannon_bound(book.bits); }

std::string codebook_id(const SolvedCodebook& book) {
  return fmt::format("{}-d{}-b{}", name_of(book.density), book.dim, book.bits);
}

std::string format_table(const SolvedCodebook& book) {
  std::string text = fmt::format(
      "{}: Lloyd-Max levels of one coordinate of a unit vector ({}), sigma = 1/sqrt({})\n\n", codebook_id(book),
      book.density == Density::kBeta ? "exact Beta density on the sphere" : "Gaussian N(0, 1/d)", book.dim);
  Table table({"code", "level", "level/sigma", "upper edge"});
  const double sigma = 1.0 / std::sqrt(book.dim);
  for (std::size_t i = 0; i < book.levels.size(); ++i) {
    table.add({std::to_string(i), fmt::format("{:.12f}", book.levels[i]), fmt::format("{:.6f}", book.levels[i] / sigma),
               i < book.edges.size() ? fmt::format("{:.12f}", book.edges[i]) : "-"});
  }
  text += table.format();
  text += fmt::format("\ndistortion D (relative MSE of a unit vector)  {:.9g}\n", book.distortion);
  text += fmt::format("Theorem 1's bound, sqrt(3) pi/2 4^-bits       {:.9g}\n", theorem1_bound(book.bits));
  text += fmt::format("D over Shannon's 4^-bits                      {:.6f}\n", shannon_ratio(book));
  text += fmt::format("entropy of a code                             {:.6f} bits\n", book.entropy_bits);
  text += fmt::format("largest centroid violation over sigma         {:.1e}\n", book.centroid_violation);
  return text;
}

std::string format_json(const SolvedCodebook& book) {
  nlohmann::ordered_json json;
  json["density"] = std::string(name_of(book.density));
  json["dim"] = book.dim;
  json["bits"] = book.bits;
  json["levels"] = book.levels;
  json["edges"] = book.edges;
  json["distortion"] = book.distortion;
  json["entropy_bits"] = book.entropy_bits;
  json["theorem_bound"] = theorem1_bound(book.bits);
  json["shannon_ratio"] = shannon_ratio(book);
  json["id"] = codebook_id(book);
  json["centroid_violation"] = book.centroid_violation;
  return json.dump(2) + "\n";
}

/// The float32 tables as an encoder uses them.
std::string format_c(const SolvedCodebook& book) {
  const Codebook table = find_codebook(book.density, book.dim, book.bits).table;
  const std::string name = fmt::format("tq_{}_d{}_b{}", name_of(book.density), book.dim, book.bits);
  const auto list = [](const float* values, int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += fmt::format("    {:a}f, /* {:.9g} */\n", values[i], values[i]);
    return text;
  };
  const int levels = 1 << book.bits;
  return fmt::format(
      "/* {}: relative MSE of a unit vector {:.9g}; code = number of edges below the value. tq {} */\n"
      "static const float {}_levels[{}] = {{\n{}}};\nstatic const float {}_edges[{}] = {{\n{}}};\n",
      codebook_id(book), book.distortion, TQ_VERSION, name, levels, list(table.levels, levels), name, levels - 1,
      list(table.edges, levels - 1));
}

void write_file(const std::string& path, const std::string& text, bool force) {
  AtomicFile file = AtomicFile::open(path, force);
  file.write(0, std::as_bytes(std::span(text)));
  file.commit();
}

ExitCode run_all(const Options& options) {
  if (options.output.empty()) throw UsageError("--all needs -o DIR, the directory for the tables");
  std::error_code error;
  std::filesystem::create_directories(options.output, error);
  if (error) throw Error(fmt::format("{}: cannot make the directory: {}", options.output, error.message()));
  const auto files = format_shipped_set();
  for (const auto& [name, text] : files) {
    write_file((std::filesystem::path(options.output) / name).string(), text, options.force);
  }
  fmt::print("{} tables written to {}\n", files.size(), options.output);
  return ExitCode::kDone;
}

ExitCode run(const Options& options) {
  if (options.all) return run_all(options);
  if (options.dim == 0 || options.bits == 0) throw UsageError("--dim and --bits are needed (or --all -o DIR)");
  const SolvedCodebook book = solve_codebook(*parse_density(options.density), options.dim, options.bits);
  const std::string text = options.format == "json" ? format_json(book)
                           : options.format == "c"  ? format_c(book)
                                                    : format_table(book);
  if (options.output.empty()) {
    fmt::print("{}", text);
  } else {
    write_file(options.output, text, options.force);
  }
  return ExitCode::kDone;
}

}  // namespace

void add_codebook(CLI::App& app, Command& command) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("codebook", "solve a Lloyd-Max codebook and print it");
  sub->footer("Examples: tq codebook --dim 128 --bits 3\n          tq codebook --all -o codebooks --force");
  CLI::Option* dim = sub->add_option("--dim", options->dim, "elements of a row, 8..1024 (gaussian also 1: sigma = 1)")
                         ->check(CLI::Range(1, kMaxRowDim))->default_str("");
  CLI::Option* bits = sub->add_option("--bits", options->bits, "bits of a code, 1..8")
                          ->check(CLI::Range(kMinBits, kMaxBits))->default_str("");
  CLI::Option* density =
      sub->add_option("--density", options->density,
                      "beta: exact density of a coordinate of a unit vector; gaussian: its limit N(0, 1/d)")
          ->check(CLI::IsMember({"beta", "gaussian"}));
  CLI::Option* format = sub->add_option("--format", options->format, "table, json or c (float32 arrays)")
                            ->check(CLI::IsMember({"table", "json", "c"}));
  sub->add_flag("--all", options->all, "write the frozen set (14 files) to the directory -o")
      ->excludes(dim)->excludes(bits)->excludes(density)->excludes(format);
  sub->add_option("-o,--output", options->output, "file to write instead of stdout; with --all a directory");
  sub->add_flag("--force", options->force, "overwrite the output");
  sub->callback([options, &command] { command = [options] { return run(*options); }; });
}

}  // namespace tq::cli
