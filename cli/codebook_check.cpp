// Prints what lib/solver/judge.h finds, as lines or as JSON.
#include "cli/codebook_check.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "lib/codebook.h"
#include "lib/solver/codebook_text.h"
#include "lib/solver/judge.h"

namespace tq::cli {
namespace {

const char* say_yes(bool yes) { return yes ? "yes" : "no"; }

std::string format_lines(const std::string& path, const TableFile& file, const Judgment& j) {
  std::string text = fmt::format("{}: {} levels ({} bits), ascending, {}; judged for dim {}, density {}\n\n", path,
                                 file.set.levels.size(), j.bits, file.format, j.dim, name_of(j.density));
  auto add = [&](const char* name, const std::string& value) { text += fmt::format("{:<46}{}\n", name, value); };
  add("distortion D (relative MSE of a unit vector)", fmt::format("{:.9g}", j.cost.distortion));
  if (file.claimed_distortion) add("D as the file states it", fmt::format("{:.9g}", *file.claimed_distortion));
  add("optimal D of these bits", fmt::format("{:.9g}", j.cost.optimum));
  add("D over the optimum", fmt::format("{:.6f}", j.cost.ratio()));
  add("lost to the optimum, a coordinate", fmt::format("{:.6f} bits", j.cost.bits_lost()));
  add("Theorem 1's bound, sqrt(3) pi/2 4^-bits", fmt::format("{:.9g}", theorem1_bound(j.bits)));
  add("D over that bound", fmt::format("{:.6f}", j.cost.distortion / theorem1_bound(j.bits)));
  add("symmetric (largest asymmetry over sigma)", fmt::format("{} ({:.1e})", say_yes(j.is_symmetric()), j.asymmetry));
  add("edges are midpoints (largest gap over sigma)",
      file.has_edges ? fmt::format("{} ({:.1e})", say_yes(j.has_midpoint_edges()), j.edge_deviation)
                     : std::string("none given; midpoints are used"));
  add("Lloyd-Max (largest centroid violation)",
      fmt::format("{} ({:.1e} sigma)", say_yes(j.is_fixed_point()), j.centroid_violation));
  add("best factor on the levels", fmt::format("{:.6f}", j.best_scale));
  add("D with that factor", fmt::format("{:.9g}", j.best_scale_distortion));
  text += "\n";
  for (const std::string& line : describe_judgment(j, file.claimed_distortion)) text += line + "\n";
  return text;
}

std::string format_json(const std::string& path, const TableFile& file, const Judgment& j) {
  using Json = nlohmann::ordered_json;
  Json json;
  json["file"] = path;
  json["format"] = file.format;
  json["density"] = std::string(name_of(j.density));
  json["dim"] = j.dim;
  json["bits"] = j.bits;
  json["distortion"] = j.cost.distortion;
  json["claimed_distortion"] = file.claimed_distortion ? Json(*file.claimed_distortion) : Json();
  json["midpoint_distortion"] = j.midpoint_distortion;
  json["optimal_distortion"] = j.cost.optimum;
  json["ratio_to_optimum"] = j.cost.ratio();
  json["bits_lost"] = j.cost.bits_lost();
  json["theorem_bound"] = theorem1_bound(j.bits);
  json["ratio_to_bound"] = j.cost.distortion / theorem1_bound(j.bits);
  json["within_bound"] = !j.exceeds_bound();
  json["symmetric"] = j.is_symmetric();
  json["asymmetry"] = j.asymmetry;
  json["edges_given"] = file.has_edges;
  json["edges_are_midpoints"] = file.has_edges ? Json(j.has_midpoint_edges()) : Json();
  json["edge_deviation"] = file.has_edges ? Json(j.edge_deviation) : Json();
  json["fixed_point"] = j.is_fixed_point();
  json["centroid_violation"] = j.centroid_violation;
  json["empty_cells"] = j.empty_cells;
  json["best_scale"] = j.best_scale;
  json["best_scale_distortion"] = j.best_scale_distortion;
  json["scaled_optimum"] = j.is_scaled_optimum();
  json["recognized"] = Json::array();
  for (const PublishedSet& set : j.recognized) json["recognized"].push_back(set.id);
  json["verdicts"] = describe_judgment(j, file.claimed_distortion);
  json["exit_code"] = static_cast<int>(j.exceeds_bound() ? ExitCode::kGateFailed : ExitCode::kDone);
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

ExitCode check_codebook(const CheckOptions& options) {
  TableHints hints{options.dim, options.density, std::nullopt};
  if (!options.scale.empty()) hints.in_sigma = options.scale == "sigma";
  const TableFile file = read_table(options.path, hints);
  const Judgment judgment = judge_levels(file.set, file.density, file.dim);
  fmt::print("{}", options.json ? format_json(options.path, file, judgment)
                                : format_lines(options.path, file, judgment));
  return judgment.exceeds_bound() ? ExitCode::kGateFailed : ExitCode::kDone;
}

}  // namespace tq::cli
