// Readers believe nothing: check_levels stands between a file and the sums over its cells.
#include "lib/solver/codebook_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string_view>
#include <system_error>

#include "lib/codebook.h"
#include "lib/error.h"
#include "lib/io/file.h"
#include "lib/io/safetensors_header.h"
#include "lib/solver/published.h"

namespace tq {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kMaxTableBytes = std::uint64_t{1} << 20;
constexpr std::string_view kSpace = " \t\n\v\f\r";

// What a file says, before the hints are heard.
struct Parsed {
  std::string format = "list";
  std::vector<double> levels{};
  std::optional<std::vector<double>> edges{};
  std::optional<Density> density{};
  std::optional<double> dim{};
  std::optional<double> bits{};
  std::optional<double> distortion{};
};

std::string read_text(const std::string& path) {
  const InputFile file = InputFile::open(path);
  if (file.size() > kMaxTableBytes) {
    throw Error(fmt::format("{}: has {} bytes: a table of levels has at most {}", path, file.size(),
                            kMaxTableBytes));
  }
  std::string text(file.size(), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

std::vector<double> parse_list(std::string_view text, const std::string& path) {
  std::vector<double> values;
  const std::string separators = std::string(kSpace) + ",";
  for (std::size_t at = text.find_first_not_of(separators); at != text.npos;
       at = text.find_first_not_of(separators, at)) {
    const std::string_view word = text.substr(at, text.find_first_of(separators, at) - at);
    at += word.size();
    const std::string_view digits = word.front() == '+' ? word.substr(1) : word;
    double value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size()) {
      throw Error(
          fmt::format("{}: {} at byte {} is not a number that a double holds: a list is numbers, "
                      "white space and commas",
                      path, quote_name(word), at - word.size()));
    }
    values.push_back(value);
  }
  return values;
}

std::vector<double> get_numbers(const Json& array, std::string_view what, const std::string& path) {
  std::vector<double> values;
  if (!array.is_array()) throw Error(fmt::format("{}: {} is not an array", path, what));
  for (const Json& value : array) {
    if (!value.is_number()) {
      throw Error(fmt::format("{}: {} holds something at index {} that is no number", path, what,
                              values.size()));
    }
    values.push_back(value.get<double>());
  }
  return values;
}

std::optional<double> get_number(const Json& object, const char* key, const std::string& path) {
  const auto found = object.find(key);
  if (found == object.end()) return std::nullopt;
  if (!found->is_number()) throw Error(fmt::format("{}: \"{}\" is not a number", path, key));
  return found->get<double>();
}

Parsed parse_tq(const Json& object, const std::string& path) {
  Parsed parsed{.format = "tq-json", .levels = get_numbers(object["levels"], "levels", path)};
  if (object.contains("edges")) parsed.edges = get_numbers(object["edges"], "edges", path);
  if (object.contains("density")) {
    const Json& name = object["density"];
    if (name.is_string()) parsed.density = parse_density(name.get_ref<const std::string&>());
    if (!parsed.density) {
      throw Error(fmt::format("{}: \"density\" must be \"beta\" or \"gaussian\"", path));
    }
  }
  parsed.dim = get_number(object, "dim", path);
  parsed.bits = get_number(object, "bits", path);
  parsed.distortion = get_number(object, "distortion", path);
  return parsed;
}

Parsed parse_0xsero(const Json& object, const std::string& path) {
  Parsed parsed{.format = "0xsero-json",
                .levels = get_numbers(object["centroids"], "centroids", path),
                .density = Density::kBeta};
  if (object.contains("boundaries")) {
    const std::vector<double> all = get_numbers(object["boundaries"], "boundaries", path);
    if (all.size() < 2 || !(all.front() < 0) || all.back() != -all.front()) {
      throw Error(fmt::format("{}: boundaries must go from -1 to 1, or from -x to x where a whole table is scaled", path));
    }
    parsed.edges.emplace(all.begin() + 1, all.end() - 1);
  }
  parsed.dim = get_number(object, "d", path);
  parsed.bits = get_number(object, "bits", path);
  parsed.distortion = get_number(object, "mse_total", path);
  const std::optional<double> each = get_number(object, "mse_per_coord", path);
  if (!parsed.distortion && each && parsed.dim) parsed.distortion = *each * *parsed.dim;
  return parsed;
}

Parsed parse_text(std::string_view text, const std::string& path) {
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  const std::size_t first = text.find_first_not_of(kSpace);
  if (first == text.npos) throw Error(fmt::format("{}: is empty: no levels", path));
  if (text[first] != '{' && text[first] != '[') return {.levels = parse_list(text, path)};
  Json json;
  try {
    json = Json::parse(text, [&path, keys = std::set<std::string>()](int depth, Json::parse_event_t event, Json& key) mutable {
      if (event == Json::parse_event_t::key && depth == 1 && !keys.insert(key.get<std::string>()).second) {
        throw Error(fmt::format("{}: the key {} stands there twice", path, quote_name(key.get<std::string>())));
      }
      return true;
    });
  } catch (const Json::parse_error& error) {
    throw Error(fmt::format("{}: is not JSON at byte {} (JSON has no NaN and no infinity)", path,
                            error.byte));
  } catch (const Json::exception&) {
    throw Error(fmt::format("{}: holds a number that overflows", path));
  }
  if (json.is_array()) return {.levels = get_numbers(json, "the array", path)};
  if (json.contains("centroids")) return parse_0xsero(json, path);
  if (json.contains("levels")) return parse_tq(json, path);
  throw Error(
      fmt::format("{}: has neither \"levels\" nor \"centroids\": no table of levels", path));
}

// The dim to judge at. Throws unless file and hints agree on one that can be solved.
int resolve_dim(const Parsed& parsed, const TableHints& hints, Density density,
                const std::string& path) {
  if (!parsed.dim && !hints.dim) {
    throw Error(fmt::format("{}: does not say its dim: give --dim", path));
  }
  const double dim = parsed.dim ? *parsed.dim : *hints.dim;
  if (hints.dim && dim != *hints.dim) {
    throw Error(fmt::format("{}: is a table for dim {}, and --dim says {}", path, dim, *hints.dim));
  }
  const bool is_whole = dim >= 1 && dim <= kMaxSolverDim && dim == std::floor(dim);
  if (!is_whole || !is_solvable_dim(density, static_cast<int>(dim))) {
    throw Error(fmt::format("{}: dim {} under the {} density: must be {}..{} (gaussian also 1)",
                            path, dim, name_of(density), kMinSolverDim, kMaxSolverDim));
  }
  return static_cast<int>(dim);
}

template <typename T>
std::string format_array(std::span<const T> values) {
  std::string text;
  for (T value : values) text += fmt::format("    {:a}f, /* {:.9g} */\n", value, value);
  return text;
}

}  // namespace

TableFile read_table(const std::string& path, const TableHints& hints) {
  Parsed parsed = parse_text(read_text(path), path);
  const Density own = parsed.density.value_or(Density::kBeta);
  const Density density = hints.density.value_or(own);
  if (hints.in_sigma && parsed.format != "list") {
    throw Error(fmt::format("{}: --scale is for lists; a {} file is in the scale of a unit vector",
                            path, parsed.format));
  }
  TableFile file{parsed.format, density, 0, {parsed.levels, {}}, parsed.edges.has_value(), {}};
  file.set.edges = parsed.edges ? *parsed.edges : find_midpoints(parsed.levels);
  check_levels(file.set, path);
  if (parsed.bits && std::exp2(*parsed.bits) != static_cast<double>(parsed.levels.size())) {
    throw Error(fmt::format("{}: has {} levels, and says that it has {} bits", path,
                            parsed.levels.size(), *parsed.bits));
  }
  file.dim = resolve_dim(parsed, hints, density, path);
  if (hints.in_sigma.value_or(false)) {
    file.set = scale_levels(parsed.levels, 1 / std::sqrt(static_cast<double>(file.dim)));
  }
  if (density == own) file.claimed_distortion = parsed.distortion;
  return file;
}

NamedSolution solve_named(std::string_view id) {
  const NamedCodebook found = find_codebook(id);
  if (id.starts_with("vj-")) return {found.id, make_vj_codebook(found.dim, found.table.bits)};
  return {found.id, solve_codebook(found.density, found.dim, found.table.bits)};
}

std::optional<Cost> find_sphere_cost(const SolvedCodebook& book) {
  if (!is_solvable_dim(Density::kBeta, book.dim)) return std::nullopt;
  return find_cost({book.levels, book.edges}, Density::kBeta, book.dim);
}

std::string format_tq_json(const NamedSolution& named) {
  const SolvedCodebook& book = named.book;
  const std::optional<Cost> cost = find_sphere_cost(book);
  nlohmann::ordered_json json;
  json["density"] = std::string(name_of(book.density));
  json["dim"] = book.dim;
  json["bits"] = book.bits;
  json["levels"] = book.levels;
  json["edges"] = book.edges;
  json["distortion"] = book.distortion;
  json["entropy_bits"] = book.entropy_bits;
  json["theorem_bound"] = theorem1_bound(book.bits);
  json["shannon_ratio"] = book.distortion / shannon_bound(book.bits);
  json["id"] = named.id;
  json["centroid_violation"] = book.centroid_violation;
  json["sphere_distortion"] = cost ? Json(cost->distortion) : Json();
  json["ratio_to_optimum"] = cost ? Json(cost->ratio()) : Json();
  json["bits_lost"] = cost ? Json(cost->bits_lost()) : Json();
  return json.dump(2) + "\n";
}

std::string format_0xsero_json(const NamedSolution& named) {
  const SolvedCodebook& book = named.book;
  if (!(book.levels.back() < 1)) {
    throw UsageError(
        fmt::format("0xsero-json holds levels inside -1..1, and {} reaches {:.3f}: use --density "
                    "beta or another dim",
                    named.id, book.levels.back()));
  }
  std::vector<double> boundaries{-1.0};
  boundaries.insert(boundaries.end(), book.edges.begin(), book.edges.end());
  boundaries.push_back(1.0);
  nlohmann::ordered_json json;
  json["centroids"] = book.levels;
  json["boundaries"] = boundaries;
  json["mse_per_coord"] = book.distortion / book.dim;
  json["mse_total"] = book.distortion;
  json["d"] = book.dim;
  json["bits"] = book.bits;
  return json.dump(2) + "\n";
}

std::string format_c(const NamedSolution& named) {
  const Codebook table = find_codebook(named.id).table;
  const std::size_t count = named.book.levels.size();
  std::string name = "tq_" + named.id;
  std::replace(name.begin(), name.end(), '-', '_');
  return fmt::format(
      "/* {}: relative MSE of a unit vector {:.9g}; code = number of edges below the value. tq {} "
      "*/\n"
      "static const float {}_levels[{}] = {{\n{}}};\nstatic const float {}_edges[{}] = {{\n{}}};\n",
      named.id, named.book.distortion, TQ_VERSION, name, count,
      format_array(std::span(table.levels).first(count)), name, count - 1,
      format_array(std::span(table.edges).first(count - 1)));
}

}  // namespace tq
