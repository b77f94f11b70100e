#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <map>

#include "lib/error.h"
#include "lib/io/staged_file.h"
#include "lib/pack/finish_weights.h"
#include "lib/pack/pack_weights.h"
#include "lib/pack/weight_reader.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

/// The journals of a directory by part; all of them of one run, by their names. None: parts is 0.
std::map<int, std::string> find_journals(const std::string& dir, int& parts) {
  std::error_code error;
  fs::directory_iterator entries(dir, error);
  if (error) throw Error(fmt::format("{}: cannot be read: {}; name the directory that the parts were packed into", dir, error.message()));
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

/// What the parts were asked for, if any has begun. Error that names part and option if they differ.
std::optional<PackRun> read_common_run(const std::string& dir, const std::vector<Journal>& held,
                                       const std::vector<std::vector<std::string>>& lines) {
  std::optional<PackRun> run;
  for (std::size_t i = 0; i < held.size(); ++i) {
    if (lines[i].empty()) continue;
    PackRun part = parse_run(lines[i].front(), held[i].path());
    if (!run) {
      run = std::move(part);
      continue;
    }
    run->replace |= part.replace;
    const auto difference = find_difference(run->fingerprint, part.fingerprint);
    if (!difference) continue;
    const auto value = [](const std::string& text) { return text.empty() ? std::string("not there") : text; };
    throw Error(fmt::format("{}: parts {} and {} of {} were not packed alike: {} is {} in part {} and {} in part {}; pack one of them "
                            "again with --force",
                            dir, run->part, part.part, run->options.parts, difference->what, value(difference->before), run->part,
                            value(difference->now), part.part));
  }
  return run;
}

void refuse_missing_files(const std::string& dir, const WeightPlan& plan) {
  for (const WeightShard& shard : plan.shards) {
    const std::string path = (fs::path(dir) / shard.name).string();
    std::error_code ignored;
    if (StagedFile::find(path) || fs::exists(path, ignored)) continue;
    throw Error(fmt::format("{}{}: is gone; 'tq pack-weights --shard {}/{} --resume', with the options that it had, packs it again",
                            path, kPartialSuffix, shard.part, plan.options.parts));
  }
}

/// No parts: an earlier merge, or a run in one part, may have made the whole.
MergeResult check_whole(const std::string& dir, const Backend& backend, int threads, const Progress& progress) {
  if (!Tq3Checkpoint::claims(dir)) {
    throw Error(fmt::format("{}: holds no parts; 'tq pack-weights --shard K/N' writes them", dir));
  }
  const WeightReader reader = WeightReader::open(dir, backend);
  if (!reader.has_hashes()) throw Error(fmt::format("{}: holds no parts, and what is there was not written by tq", dir));
  reader.check_hashes(threads, progress);
  MergeResult result;
  result.was_complete = true;
  result.shards = reader.checkpoint().shards().size();
  for (const SafetensorsFile& shard : reader.checkpoint().shards()) result.bytes += shard.file().size();
  return result;
}

}  // namespace

MergeResult merge_shards(const std::string& dir, const Backend& backend, int threads, const Progress& progress) {
  int parts = 0;
  const std::map<int, std::string> journals = find_journals(dir, parts);
  if (parts == 0) return check_whole(dir, backend, threads, progress);
  std::vector<Journal> held;
  std::vector<std::vector<std::string>> lines;
  for (const auto& [part, path] : journals) held.push_back(Journal::reopen(path, lines.emplace_back()));
  // From here on no part is being packed.
  std::optional<PackRun> run = read_common_run(dir, held, lines);
  if (!run) throw Error(fmt::format("{}: no part has begun", dir));
  const Checkpoint source = Checkpoint::open(run->source_dir);
  const WeightPlan plan = plan_weights(source, run->options);
  compare_fingerprints(run->fingerprint, make_fingerprint(source, run->options), run->source_dir);
  WeightRecords records(plan.items.size());
  for (std::size_t i = 0; i < held.size(); ++i) parse_records(lines[i], plan, records, held[i].path());
  std::vector<std::string> paths;
  for (const Journal& journal : held) paths.push_back(journal.path());
  const MergeResult result{run->source_dir, parts, plan.shards.size(), plan.shard_bytes, false};
  if (is_in_place(dir, plan, *run)) {  // an earlier merge was ended while it deleted the journals
    for (Journal& journal : held) journal.remove();
    return result;
  }
  if (const std::string missing = list_unfinished(plan, records); !missing.empty()) {
    throw Error(fmt::format("{}: unfinished parts of {}: {}; run them with --resume", dir, parts, missing));
  }
  refuse_missing_files(dir, plan);
  check_finished(dir, plan, records, threads, progress);
  // From here on every tensor is there, as it was written.
  finish_output(dir, plan, *run, records, paths);
  return result;
}

}  // namespace tq
