// tq codebook: solves and prints codebooks, judges those of files, and regenerates the frozen set.
#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "cli/codebook_check.h"
#include "cli/command.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "lib/codebook.h"
#include "lib/io/atomic_file.h"
#include "lib/scheme.h"
#include "lib/solver/codebook_text.h"
#include "lib/solver/freeze.h"
#include "lib/solver/lloyd_max.h"

namespace tq::cli {
namespace {

struct Options {
  int dim = 0;
  int bits = 0;
  std::string density = "beta";
  std::string id;
  std::string format = "table";
  std::optional<std::string> output;
  bool all = false;
  bool force = false;
  CheckOptions check;
};

std::string format_table(const NamedSolution& named) {
  const SolvedCodebook& book = named.book;
  const char* origin = named.id.starts_with("vj-")         ? "compatibility levels of native TQ3 checkpoints"
                       : book.density == Density::kBeta ? "Lloyd-Max levels, exact Beta density on the sphere"
                                                        : "Lloyd-Max levels, Gaussian N(0, 1/d)";
  std::string text =
      fmt::format("{}: {}; one coordinate of a unit vector, sigma = 1/sqrt({})\n\n", named.id, origin, book.dim);
  Table table({"code", "level", "level/sigma", "upper edge"});
  const double sigma = 1.0 / std::sqrt(book.dim);
  for (std::size_t i = 0; i < book.levels.size(); ++i) {
    table.add({std::to_string(i), fmt::format("{:.12f}", book.levels[i]),
               fmt::format("{:.6f}", book.levels[i] / sigma),
               i < book.edges.size() ? fmt::format("{:.12f}", book.edges[i]) : "-"});
  }
  text += table.format();
  text += fmt::format("\ndistortion D (relative MSE of a unit vector)  {:.9g}\n", book.distortion);
  text += fmt::format("Theorem 1's bound, sqrt(3) pi/2 4^-bits       {:.9g}\n", theorem1_bound(book.bits));
  text += fmt::format("D over Shannon's 4^-bits                      {:.6f}\n",
                      book.distortion / shannon_bound(book.bits));
  text += fmt::format("entropy of a code                             {:.6f} bits\n", book.entropy_bits);
  text += fmt::format("largest centroid violation over sigma         {:.1e}\n", book.centroid_violation);
  if (const std::optional<Cost> cost = find_sphere_cost(book)) {
    text += fmt::format("D on the sphere over the optimum there        {:.6f}\n", cost->ratio());
    text += fmt::format("lost to that optimum, a coordinate            {:.6f} bits\n", cost->bits_lost());
  }
  return text;
}

void write_file(const std::string& path, const std::string& text, bool force) {
  AtomicFile file = AtomicFile::open(path, force);
  file.write(0, std::as_bytes(std::span(text)));
  file.commit();
}

ExitCode run_all(const Options& options) {
  if (!options.output || options.output->empty() || *options.output == "-") {
    throw UsageError("--all needs -o DIR, the directory for the tables");
  }
  std::error_code error;
  std::filesystem::create_directories(*options.output, error);
  if (error) throw Error(fmt::format("{}: cannot make the directory: {}", *options.output, error.message()));
  const auto tables = format_shipped_set();
  std::vector<AtomicFile> files;  // all are open before one is written: a file in the way stops the whole set
  for (const auto& [name, text] : tables) {
    files.push_back(AtomicFile::open((std::filesystem::path(*options.output) / name).string(), options.force));
    files.back().write(0, std::as_bytes(std::span(text)));
  }
  for (AtomicFile& file : files) file.commit();
  fmt::print("{} tables written to {}\n", tables.size(), *options.output);
  return ExitCode::kDone;
}

NamedSolution find_solution(const Options& options) {
  if (options.id.empty()) {
    if (options.dim == 0 || options.bits == 0) {
      throw UsageError("--dim and --bits are needed (or --id, --check FILE, --all -o DIR)");
    }
    return {fmt::format("{}-d{}-b{}", options.density, options.dim, options.bits),
            solve_codebook(*parse_density(options.density), options.dim, options.bits)};
  }
  try {
    return solve_named(options.id);
  } catch (const Error& error) {
    throw UsageError(fmt::format("--id: {}", error.what()));
  }
}

ExitCode run(const Options& options) {
  if (options.all) return run_all(options);
  if (!options.check.path.empty()) return check_codebook(options.check);
  const NamedSolution named = find_solution(options);
  const std::string text = options.format == "json"          ? format_tq_json(named)
                           : options.format == "0xsero-json" ? format_0xsero_json(named)
                           : options.format == "c"           ? format_c(named)
                                                             : format_table(named);
  if (options.output) {
    write_file(*options.output, text, options.force);
  } else {
    fmt::print("{}", text);
  }
  return ExitCode::kDone;
}

}  // namespace

void add_codebook(CLI::App& app, Command& command) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("codebook", "solve a Lloyd-Max codebook and print it, or judge one from a file");
  sub->footer(
      "Examples: tq codebook --dim 128 --bits 3\n          tq codebook --id vj-d128-b4 --format c\n"
      "          tq codebook --check levels.txt --dim 128\n          tq codebook --all -o codebooks --force\n"
      "Exit codes of --check: 0 within Theorem 1's bound; 1 beyond it; 3 not a table of 2^bits ascending levels.");
  CLI::Option* dim = sub->add_option("--dim", options->dim, "elements of a row, 8..1024 (gaussian also 1: sigma = 1)")
                         ->check(CLI::Range(1, kMaxSolverDim))->default_str("");
  CLI::Option* bits = sub->add_option("--bits", options->bits, "bits of a code, 1..8")
                          ->check(CLI::Range(kMinBits, kMaxBits))->default_str("");
  CLI::Option* density =
      sub->add_option("--density", options->density,
                      "beta: exact density of a coordinate of a unit vector; gaussian: its limit N(0, 1/d)")
          ->check(CLI::IsMember({"beta", "gaussian"}));
  CLI::Option* id = sub->add_option("--id", options->id,
                                    "a codebook by name: beta-d128-b3, gaussian-d100-b4, or the table of native TQ3 "
                                    "checkpoints: vj-d64-b2 (d 64, 128, 256; b 2, 3, 4)")
                        ->excludes(dim)->excludes(bits)->excludes(density);
  CLI::Option* format =
      sub->add_option("--format", options->format, "table, json, c (float32 arrays) or 0xsero-json")
          ->check(CLI::IsMember({"table", "json", "c", "0xsero-json"}));
  CLI::Option* all = sub->add_flag("--all", options->all, "write the frozen set (17 files) to the directory -o")
                         ->excludes(dim)->excludes(bits)->excludes(density)->excludes(format)->excludes(id);
  CLI::Option* output =
      sub->add_option("-o,--output", options->output, "file to write instead of stdout; with --all a directory");
  CLI::Option* force = sub->add_flag("--force", options->force, "overwrite the output");
  CLI::Option* check = sub->add_option("--check", options->check.path,
                                       "judge the levels in this file: one of --format json or 0xsero-json, or a list "
                                       "of numbers (then --dim is needed); under --density, else the file's own")
                           ->type_name("FILE");
  for (CLI::Option* other : {bits, id, format, all, output, force}) check->excludes(other);
  sub->add_option("--scale", options->check.scale,
                  "with --check of a list: its unit, sigma = 1/sqrt(dim) or that of the unit vector (default unit)")
      ->check(CLI::IsMember({"sigma", "unit"}))->default_str("")->needs(check);
  sub->add_flag("--json", options->check.json, "with --check: the judgment as JSON")->needs(check);
  sub->callback([options, dim, density, &command] {
    if (dim->count() > 0) options->check.dim = options->dim;
    if (density->count() > 0) options->check.density = *parse_density(options->density);
    command = [options] { return run(*options); };
  });
}

}  // namespace tq::cli
