#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <map>

#include "lib/error.h"
#include "lib/pack/finish_weights.h"
#include "lib/pack/pack_weights.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

/// The journals of a directory by part; all of them of one run, by their names.
std::map<int, std::string> find_journals(const std::string& dir, int& parts) {
  std::error_code error;
  fs::directory_iterator entries(dir, error);
  if (error) throw Error(fmt::format("{}: cannot be read: {}", dir, error.message()));
  std::map<int, std::string> journals;
  parts = 0;
  for (const fs::directory_entry& entry : entries) {
    const std::optional<PartName> name = parse_journal_name(entry.path().filename().string());
    if (!name || name->parts < 2) continue;
    if (parts != 0 && parts != name->parts) {
      throw Error(fmt::format("{}: holds parts of a run in {} and of one in {}; delete those that are not wanted", dir, parts, name->parts));
    }
    parts = name->parts;
    journals[name->part] = entry.path().string();
  }
  if (parts == 0) {
    throw Error(fmt::format("{}: holds no parts; 'tq pack-weights --shard K/N' writes them, and a merge may have been done", dir));
  }
  return journals;
}

/// "2, 5": the parts that are not finished, or "".
std::string list_unfinished(const WeightPlan& plan, const WeightRecords& records) {
  std::map<int, std::pair<std::int64_t, std::int64_t>> counts;  // part -> finished, all
  for (std::size_t i = 0; i < plan.items.size(); ++i) {
    auto& [finished, all] = counts[plan.items[i].part];
    finished += records[i] ? 1 : 0;
    ++all;
  }
  std::vector<std::string> missing;
  for (const auto& [part, count] : counts) {
    if (count.first < count.second) missing.push_back(fmt::format("{} ({} of {} tensors)", part, count.first, count.second));
  }
  return fmt::format("{}", fmt::join(missing, ", "));
}

}  // namespace

MergeResult merge_shards(const std::string& dir, int threads, const Progress& progress) {
  int parts = 0;
  const std::map<int, std::string> journals = find_journals(dir, parts);
  std::vector<Journal> held;
  std::vector<std::vector<std::string>> lines;
  for (const auto& [part, path] : journals) held.push_back(Journal::reopen(path, lines.emplace_back()));
  // From here on no part is being packed.
  std::optional<PackRun> run;
  for (std::size_t i = 0; i < held.size(); ++i) {
    if (lines[i].empty()) continue;
    const PackRun part = parse_run(lines[i].front(), held[i].path());
    if (run) compare_fingerprints(part.fingerprint, run->fingerprint, held[i].path());
    const bool replace = part.replace || (run && run->replace);
    run = part;
    run->replace = replace;
  }
  if (!run) throw Error(fmt::format("{}: no part has begun", dir));
  const Checkpoint source = Checkpoint::open(run->source_dir);
  const WeightPlan plan = plan_weights(source, run->options);
  compare_fingerprints(run->fingerprint, make_fingerprint(source, run->options), run->source_dir);
  WeightRecords records(plan.items.size());
  for (std::size_t i = 0; i < held.size(); ++i) parse_records(lines[i], plan, records, held[i].path());
  std::vector<std::string> paths;
  for (const Journal& journal : held) paths.push_back(journal.path());
  const MergeResult result{run->source_dir, parts, plan.shards.size(), plan.shard_bytes};
  if (is_in_place(dir, plan, *run)) {  // an earlier merge was ended while it deleted the journals
    for (Journal& journal : held) journal.remove();
    return result;
  }
  if (const std::string missing = list_unfinished(plan, records); !missing.empty()) {
    throw Error(fmt::format("{}: unfinished parts of {}: {}; run them with --resume", dir, parts, missing));
  }
  check_finished(dir, plan, records, threads, progress);
  // From here on every tensor is there, as it was written.
  finish_output(dir, plan, *run, records, paths);
  return result;
}

}  // namespace tq
