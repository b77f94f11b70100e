#include "lib/pack/pack_session.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "lib/error.h"
#include "lib/io/kv_file.h"
#include "lib/io/staged_file.h"
#include "lib/io/write_point.h"
#include "lib/pack/finish_weights.h"
#include "lib/pack/weight_blocks.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kReadBytes = std::size_t{1} << 20;
constexpr std::uint64_t kSyncBytes = std::uint64_t{32} << 20;

std::string join_path(const std::string& dir, std::string_view name) { return (fs::path(dir) / name).string(); }

/// Returns whether it was not there.
bool make_directory(const std::string& dir, const Checkpoint& source) {
  std::error_code error;
  if (fs::equivalent(dir, source.dir(), error)) {
    throw Error(fmt::format("{}: is the source itself; choose another output directory", dir));
  }
  const bool made = fs::create_directories(dir, error);
  if (error) throw Error(fmt::format("{}: cannot be made: {}; choose an output directory that you may write to", dir, error.message()));
  return made;
}

/// Another part of the same run has to be of the same source and options.
void refuse_other_options(const std::string& path, const PartName& other, const PackRun& run) {
  const std::string line = Journal::read_first_line(path);
  if (line.empty()) return;
  const auto difference = find_difference(parse_run(line, path).fingerprint, run.fingerprint);
  if (!difference) return;
  throw Error(fmt::format("{}: part {} of {} was packed otherwise: {}; do the same, or use --force on all parts", path,
                          other.part, other.parts, difference->describe()));
}

/// Journals of runs that would write the same files, or other parts of them.
void refuse_other_runs(const std::string& dir, const PackRun& run) {
  for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
    const std::string name = entry.path().filename().string();
    const std::optional<PartName> other = parse_journal_name(name);
    if (!other) continue;
    if (other->parts == run.options.parts) {
      if (other->part != run.part && !run.replace) refuse_other_options(entry.path().string(), *other, run);
      continue;
    }
    if (run.options.parts == 1 && run.replace) {
      Journal::create(entry.path().string(), "").remove();  // Error if somebody is at work there
      continue;
    }
    throw Error(fmt::format("{}: belongs to an unfinished run in {}; finish it, or delete the directory",
                            entry.path().string(), other->parts == 1 ? "one part" : fmt::format("{} parts", other->parts)));
  }
}

/// What makes a directory look like a checkpoint, or would be overwritten.
void refuse_existing_files(const std::string& dir, const Checkpoint& source) {
  std::set<std::string> names;
  for (const std::string& name : list_companions(source.dir())) names.insert(name);
  for (const std::string_view name : {kModelConfigName, kTq3ConfigName, kIndexName}) names.emplace(name);
  for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
    const std::string name = entry.path().filename().string();
    if (!names.contains(name) && !name.ends_with(".safetensors")) continue;
    throw Error(fmt::format("{}: exists already; use --force to replace what is there, or choose another directory",
                            entry.path().string()));
  }
}

PackSession resume_session(const std::string& dir, const WeightPlan& plan, PackRun run, const std::string& path) {
  std::vector<std::string> lines;
  Journal journal = Journal::reopen(path, lines);
  const PackRun before = parse_run(lines.front(), path);
  compare_fingerprints(before.fingerprint, run.fingerprint, path);
  run.replace |= before.replace;
  PackSession session{dir, std::move(run), std::move(journal), {}};
  parse_records(lines, plan, session.records, path);
  return session;
}

/// One stretch of a file against its hash.
void check_hash(const std::string& path, const WeightItem& item, std::uint64_t offset, std::uint64_t bytes,
                const std::string& hash, const Progress& progress) {
  const InputFile file = StagedFile::open_for_reading(path);
  std::vector<std::byte> buffer(std::min<std::uint64_t>(bytes, kReadBytes));
  XXH64_state_t state;
  XXH64_reset(&state, 0);
  for (std::uint64_t done = 0; done < bytes;) {
    const std::span<std::byte> part(buffer.data(), std::min<std::uint64_t>(buffer.size(), bytes - done));
    file.read(offset + done, part);
    XXH64_update(&state, part.data(), part.size());
    done += part.size();
    if (progress) progress(part.size());
  }
  if (format_hash(XXH64_digest(&state)) == hash) return;
  throw Error(fmt::format("{}: the finished tensor {} is not what was written; start again with --force", file.path(),
                          quote_name(item.name())));
}

}  // namespace

std::optional<PackSession> begin_session(const std::string& dir, const Checkpoint& source, const WeightPlan& plan, PackRun run,
                                         bool resume) {
  const bool made_dir = make_directory(dir, source);
  refuse_other_runs(dir, run);
  const std::string path = join_path(dir, journal_name(run.part, run.options.parts));
  if (!Journal::read(path).empty() && !run.replace) {
    if (resume) return resume_session(dir, plan, std::move(run), path);
    throw Error(fmt::format("{}: an unfinished run is there; --resume goes on with it, --force starts again", path));
  }
  if (resume && is_in_place(dir, plan, run)) {
    std::string damage = find_damage(dir, list_output(source, plan, run));
    if (damage.empty()) damage = find_text_damage(dir, plan, run.source_dir);
    if (damage.empty()) return std::nullopt;
    throw Error(fmt::format("{}: was complete, and is damaged: {}; --force packs it again", dir, damage));
  }
  if (const std::string difference = resume ? compare_with_result(dir, run) : ""; !difference.empty()) {
    throw Error(fmt::format("{}: is complete, and was packed otherwise: {}; use --force to replace it, or choose another directory",
                            dir, difference));
  }
  if (!run.replace) refuse_existing_files(dir, source);
  Journal journal = Journal::create(path, format_run(run));
  pass_write_point("journal-created");
  PackSession session{dir, std::move(run), std::move(journal), WeightRecords(plan.items.size()), made_dir};
  return session;
}

bool PackSession::is_finished(const WeightPlan& plan) const {
  for (std::size_t i = 0; i < plan.items.size(); ++i) {
    if (plan.items[i].part == run.part && !records[i]) return false;
  }
  return true;
}

std::string compare_with_result(const std::string& dir, const PackRun& run) {
  const std::string path = join_path(dir, kTq3ConfigName);
  if (!Tq3Checkpoint::claims(dir)) return "";
  const Tq3Config config = parse_tq3_config(read_text_file(path), path);
  if (!config.by_tq) return "";
  const auto difference = find_difference(config.made_from, portable_fingerprint(run.fingerprint));
  return difference ? difference->describe() : "";
}

std::vector<std::string> PackSession::forget_lost(const WeightPlan& plan) {
  std::vector<bool> is_lost(plan.shards.size());
  std::vector<std::string> files;
  for (std::size_t i = 0; i < plan.shards.size(); ++i) {
    const std::string path = join_path(dir, plan.shards[i].name);
    std::error_code error;
    const std::optional<std::uint64_t> partial = StagedFile::find(path);
    const std::uintmax_t bytes = partial ? *partial : fs::file_size(path, error);
    is_lost[i] = error || bytes != plan.shards[i].bytes;
  }
  std::vector<std::string> lines;
  std::set<int> lost;
  for (std::size_t i = 0; i < plan.items.size(); ++i) {
    if (!records[i]) continue;
    const WeightItem& item = plan.items[i];
    for (const int shard : {item.data.shard, item.is_quantized() ? item.norms.shard : item.data.shard}) {
      if (!is_lost[static_cast<std::size_t>(shard)]) continue;
      lost.insert(shard);
      records[i].reset();
    }
    if (!records[i]) lines.push_back(format_loss(item));
  }
  if (!lines.empty()) journal.append(lines);
  for (const int shard : lost) files.push_back(plan.shards[static_cast<std::size_t>(shard)].name);
  return files;
}

std::int64_t PackSession::forget_sampled(const WeightPlan& plan) {
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < plan.items.size(); ++i) {
    const WeightItem& item = plan.items[i];
    if (!records[i] || !item.is_quantized() || records[i]->stats.rows_checked * item.groups == item.lines()) continue;
    records[i].reset();
    lines.push_back(format_loss(item));
  }
  if (!lines.empty()) journal.append(lines);
  return std::ssize(lines);
}

void PackSession::discard(const WeightPlan& plan) {
  for (const WeightShard& shard : plan.shards) {
    if (shard.part == run.part) StagedFile::remove(join_path(dir, shard.name));
  }
  if (run.options.parts == 1) remove_partial_files(dir);  // of a run that was given up for this one
  journal.remove();
  std::error_code ignored;
  if (made_dir) fs::remove(dir, ignored);  // only if it is empty
}

void check_sources(const Checkpoint& source, const WeightPlan& plan, const WeightRecords& records, int threads) {
  parallel_for(threads, static_cast<std::int64_t>(plan.items.size()), [&](std::int64_t i) {
    const auto index = static_cast<std::size_t>(i);
    if (!records[index] || hash_source(source, plan, index) == records[index]->source_hash) return;
    const WeightItem& item = plan.items[index];
    throw Error(fmt::format("{}: tensor {} is not what it was when it was packed; get the source as it was, or start again with --force",
                            source.shards()[static_cast<std::size_t>(item.source->shard)].file().path(), quote_name(item.name())));
  });
}

void check_finished(const std::string& dir, const WeightPlan& plan, const WeightRecords& records, int threads,
                    const Progress& progress) {
  parallel_for(threads, static_cast<std::int64_t>(plan.items.size()), [&](std::int64_t i) {
    const std::optional<WeightRecord>& record = records[static_cast<std::size_t>(i)];
    if (!record) return;
    const WeightItem& item = plan.items[static_cast<std::size_t>(i)];
    const auto path_of = [&](const WeightPlace& place) {
      return join_path(dir, plan.shards[static_cast<std::size_t>(place.shard)].name);
    };
    check_hash(path_of(item.data), item, item.data.offset, item.data_bytes(), record->data_hash, progress);
    if (!item.is_quantized()) return;
    check_hash(path_of(item.norms), item, item.norms.offset, item.norms_bytes(), record->norms_hash, progress);
  });
}

void reserve_shards(const PackSession& session, const WeightPlan& plan) {
  std::set<int> begun;   // shards in which a record's data lies: they are there
  std::set<int> needed;  // shards that will be written to
  for (std::size_t i = 0; i < plan.items.size(); ++i) {
    std::set<int>& shards = session.records[i] ? begun : needed;
    shards.insert(plan.items[i].data.shard);
    if (plan.items[i].is_quantized()) shards.insert(plan.items[i].norms.shard);
  }
  for (std::size_t i = 0; i < plan.shards.size(); ++i) {
    const WeightShard& shard = plan.shards[i];
    if (shard.part != session.run.part || !needed.contains(static_cast<int>(i))) continue;
    const std::string path = join_path(session.dir, shard.name);
    if (!begun.contains(static_cast<int>(i))) {
      StagedFile::create(path, shard.bytes);
    } else if (!StagedFile::find(path)) {
      StagedFile::take_back(path);
    }
    StagedFile::open(path).write(0, std::as_bytes(std::span(shard.header)));
    pass_write_point("shard-reserved");
  }
  sync_directory(session.dir, session.dir);
}

Recorder::Recorder(PackSession& session, const WeightPlan& plan)
    : session_(session), plan_(plan), thread_([this] { run(); }) {}

Recorder::~Recorder() {
  const std::lock_guard lock(mutex_);
  ending_ = true;
  changed_.notify_all();
}

void Recorder::add(std::size_t item, WeightRecord record) {
  const std::lock_guard lock(mutex_);
  if (failure_) std::rethrow_exception(failure_);
  session_.records[item] = std::move(record);
  waiting_.push_back(item);
  changed_.notify_all();
}

void Recorder::note_written(int shard, std::uint64_t bytes) {
  unsynced_bytes_ += bytes;
  if (unsynced_bytes_ < kSyncBytes) return;
  unsynced_bytes_ = 0;
  const std::lock_guard lock(mutex_);
  unsynced_.insert(shard);
  changed_.notify_all();
}

void Recorder::finish() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  if (failure_) std::rethrow_exception(failure_);
}

void Recorder::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ending_ || !waiting_.empty() || !unsynced_.empty(); });
    if (waiting_.empty() && unsynced_.empty()) return;
    std::vector<std::size_t> items = std::exchange(waiting_, {});
    if (write_points_armed() && items.size() > 1) {  // one record a tensor, so that a test knows how many there will be
      waiting_.assign(items.begin() + 1, items.end());
      items.resize(1);
    }
    std::set<int> shards = std::exchange(unsynced_, {});
    lock.unlock();
    std::exception_ptr failure;
    try {
      record(items, std::move(shards));
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    if (!failure) continue;
    failure_ = failure;
    return;
  }
}

void Recorder::record(const std::vector<std::size_t>& items, std::set<int> shards) {
  for (const std::size_t i : items) {
    shards.insert(plan_.items[i].data.shard);
    if (plan_.items[i].is_quantized()) shards.insert(plan_.items[i].norms.shard);
  }
  for (const int shard : shards) {
    StagedFile::open(join_path(session_.dir, plan_.shards[static_cast<std::size_t>(shard)].name)).sync();
  }
  if (items.empty()) return;
  pass_write_point("tensors-synced");
  std::vector<std::string> lines;
  {
    const std::lock_guard lock(mutex_);
    for (const std::size_t i : items) lines.push_back(format_record(plan_.items[i], *session_.records[i]));
  }
  session_.journal.append(lines);
  pass_write_point("tensors-recorded");
}

}  // namespace tq
