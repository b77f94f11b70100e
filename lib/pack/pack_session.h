// The output directory of pack-weights while it is at work. It never looks complete before it is: weights lie in
// NAME.tq-partial until all are finished, and config.json, which every loader opens first, is written last. What is finished
// stands in a journal; whoever holds it is alone at work on that part.
//
//   begin_session -> [check_finished -> reserve_shards -> tensors, recorded one by one] -> finish_output
#pragma once

#include <condition_variable>
#include <exception>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "lib/pack/pack_record.h"
#include "lib/parallel.h"

namespace tq {

struct PackSession {
  std::string dir;
  PackRun run;
  Journal journal;
  WeightRecords records;  ///< of the plan's items: those that were finished before
  bool made_dir = false;  ///< by this process

  /// Every item of the part has a record.
  bool is_finished(const WeightPlan& plan) const;

  /// Takes back, in the journal too, the records of tensors whose file is gone or is not of its size. Returns the files.
  std::vector<std::string> forget_lost(const WeightPlan& plan);

  /// The same for tensors of which a sample of the rows was checked: where every row is to be judged they are packed again. Returns
  /// how many there are.
  std::int64_t forget_sampled(const WeightPlan& plan);

  /// Deletes what the run, or one that was given up for it, has written: there is nothing that could be continued. An earlier
  /// result stays, and so do other parts.
  void discard(const WeightPlan& plan);
};

/// Makes the directory and begins a run, or goes on with one (`resume`; begins it if there is none). Throws Error, which
/// says what to do: the directory cannot be made or is the source's; another process is at work; a run was interrupted and
/// `resume` is false; the fingerprints differ, from those of the journal, of the other parts that have begun (without
/// run.replace) or, with `resume`, of the result that is there; files of a checkpoint are there (without run.replace).
/// Nothing at all if `resume` and the result of this very run is there, complete.
std::optional<PackSession> begin_session(const std::string& dir, const Checkpoint& source, const WeightPlan& plan, PackRun run,
                                         bool resume);

/// Reads what was written of every tensor that has a record, and throws Error that names one whose hash is another.
void check_finished(const std::string& dir, const WeightPlan& plan, const WeightRecords& records, int threads,
                    const Progress& progress);

/// The same of their sources: size and time of a file can stay while its bytes change.
void check_sources(const Checkpoint& source, const WeightPlan& plan, const WeightRecords& records, int threads);

/// "option --bits was 3 and is 4": how what was asked for differs from what made the result in `dir`. Empty if it does not, or
/// there is no result that tells.
std::string compare_with_result(const std::string& dir, const PackRun& run);

/// Makes sure that the part's files that are still to be written to are there in their final size, header included. Error
/// where there is no room.
void reserve_shards(const PackSession& session, const WeightPlan& plan);

/// Writes down what is finished, in a thread of its own: first the data is made durable, then the record.
class Recorder {
 public:
  Recorder(PackSession& session, const WeightPlan& plan);
  /// Records what is left, as far as it can.
  ~Recorder();
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  /// The data of the item has been written. Throws what went wrong in the thread.
  void add(std::size_t item, WeightRecord record);
  /// Bytes have been written: now and then makes them durable, so that not all is left to the end of a large tensor.
  void note_written(int shard, std::uint64_t bytes);
  /// Waits until all is recorded; throws what went wrong.
  void finish();

 private:
  void run();
  void record(const std::vector<std::size_t>& items, std::set<int> shards);

  PackSession& session_;
  const WeightPlan& plan_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::size_t> waiting_;  // items
  std::set<int> unsynced_;            // shards that have much to sync
  std::uint64_t unsynced_bytes_ = 0;
  bool ending_ = false;
  std::exception_ptr failure_;
  std::jthread thread_;  // last: it uses all of the above
};

}  // namespace tq
