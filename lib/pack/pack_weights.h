// The pipeline of model weights: a checkpoint becomes a native TQ3 checkpoint. See docs/weights.md.
#pragma once

#include <functional>

#include "lib/backend.h"
#include "lib/pack/pack_seconds.h"
#include "lib/pack/pack_session.h"

namespace tq {

/// How it runs. Memory: about 3 MB a thread and what names take, whatever the size of the checkpoint and its tensors.
struct PackWeightsOptions {
  int threads = 1;         ///< at most kMostPackThreads are used
  bool resume = false;     ///< go on with an interrupted run, if there is one
  bool check_all = false;  ///< compare every value with the source, not a sample: slower, for gates (lib/pack/weight_check.h)
  Progress check_progress;  ///< gets bytes of finished tensors that --resume reads again
  /// Called in order: the tensor at work, bytes of its source that are done, bytes since the last call.
  std::function<void(const WeightItem& item, std::uint64_t item_done, std::uint64_t amount)> progress;
};

inline constexpr int kMostPackThreads = 256;

/// What was done.
struct PackWeightsResult {
  WeightRecords records;            ///< of the plan's items; of other parts: nothing
  std::int64_t resumed = 0;         ///< tensors that an earlier run had finished
  std::int64_t sampled = 0;         ///< tensors that an earlier run had finished and of which not all rows were checked: packed again
  std::vector<std::string> lost;    ///< files that an earlier run had begun and that were gone: they were packed again
  std::uint64_t bytes_read = 0;     ///< of tensors, by this run
  std::uint64_t bytes_written = 0;  ///< of tensors, by this run
  PackSeconds seconds;              ///< of this run's threads, on blocks and at the end
  bool was_complete = false;        ///< the result was there already; nothing was done, and there are no records
  bool is_complete = false;         ///< the output is whole: not the case for one part of several
};

/// Quantizes and copies the items of run.part as `plan` says into the directory `dir`; a run of one part then puts the output
/// in place. Codes, norms and kept tensors depend neither on the backend nor on the threads.
/// Errors: those of begin_session(), reserve_shards(), check_finished() and check_sources(); those of reading and writing.
/// After an Error `resume` goes on. RefusedValue: a value that cannot be quantized (NaN, infinity) or that F16 cannot hold, by
/// file, tensor and index; nothing that the run or part has written is left.
PackWeightsResult pack_weights(const Checkpoint& source, const WeightPlan& plan, const Backend& backend, const std::string& dir,
                               const PackRun& run, const PackWeightsOptions& options);

struct MergeResult {
  std::string source_dir;   ///< empty if was_complete
  int parts = 0;            ///< 0 if was_complete
  std::size_t shards = 0;
  std::uint64_t bytes = 0;  ///< of the shards
  bool was_complete = false;  ///< a whole result was there already, and no parts; every hash was checked
};

/// Puts the output in place once all parts in `dir` are finished, after reading every tensor again to check its hash. Where
/// a whole result of pack-weights is there already and no part, checks that.
/// Error: neither, parts that are missing or unfinished (all are named), parts that were packed otherwise (part and option are
/// named), a file that is gone; the source is not where it was or has changed; what was written has changed.
MergeResult merge_shards(const std::string& dir, const Backend& backend, int threads, const Progress& progress);

}  // namespace tq
