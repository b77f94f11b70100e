#include "lib/pack/pack_weights.h"

#include <xxhash.h>

#include <algorithm>
#include <filesystem>

#include "lib/io/kv_file.h"
#include "lib/pack/finish_weights.h"
#include "lib/pack/weight_blocks.h"
#include "lib/pack/weight_reader.h"
#include "lib/stopwatch.h"

namespace tq {
namespace {

/// Blocks that the system fetches from the disk beside those at work: 4 MB, some milliseconds of a fast disk.
constexpr int kExpectedBlocks = 8;

/// The tensor whose blocks are finished one after the other.
struct OpenTensor {
  XXH64_state_t data;
  XXH64_state_t norms;
  SourceHash source;
  WeightCheck check;
  F16Losses losses;
  std::uint64_t done = 0;  // bytes of the source

  OpenTensor() {
    XXH64_reset(&data, 0);
    XXH64_reset(&norms, 0);
  }
};

std::vector<bool> choose_unfinished(const WeightPlan& plan, const PackSession& session) {
  std::vector<bool> wanted(plan.items.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) wanted[i] = plan.items[i].part == session.run.part && !session.records[i];
  return wanted;
}

/// Reads, encodes, writes and checks blocks in parallel; hashes and records them in order.
void pack_blocks(const Checkpoint& source, const WeightPlan& plan, const Backend& backend, PackSession& session,
                 const PackWeightsOptions& options, PackWeightsResult& result) {
  const std::vector<WeightBlock> blocks = cut_into_blocks(plan, choose_unfinished(plan, session));
  const int threads = std::min(options.threads, kMostPackThreads);
  std::vector<BlockBuffers> buffers(static_cast<std::size_t>(threads));
  ShardFiles files(session.dir, plan);
  const BlockWorker worker(source, plan, backend, files, options.check_all);
  Recorder recorder(session, plan);
  OpenTensor open;

  const auto expect = [&](std::int64_t block) {
    if (block < std::ssize(blocks)) worker.expect(blocks[static_cast<std::size_t>(block)]);
  };
  const std::int64_t ahead = threads + kExpectedBlocks;
  for (std::int64_t block = 0; block < ahead; ++block) expect(block);
  const auto encode_block = [&](std::int64_t block, int thread) {
    expect(block + ahead);
    worker.run(blocks[static_cast<std::size_t>(block)], buffers[static_cast<std::size_t>(thread)]);
  };
  const auto finish_block = [&](std::int64_t index, int thread) {
    const Stopwatch watch;
    const WeightBlock& block = blocks[static_cast<std::size_t>(index)];
    const WeightItem& item = plan.items[block.item];
    const BlockBuffers& b = buffers[static_cast<std::size_t>(thread)];
    XXH64_update(&open.data, b.data_written.data(), b.data_written.size());
    XXH64_update(&open.norms, b.norms_written.data(), b.norms_written.size());
    open.source.add(b.source_hash);
    open.check.merge(b.check);
    open.losses.merge(b.losses);
    open.done += b.source_bytes;
    result.seconds.add(b.seconds);
    result.bytes_read += b.source_bytes;
    result.bytes_written += b.data_written.size() + b.norms_written.size();
    recorder.note_written(item.data.shard, b.data_written.size() + b.norms_written.size());
    if (options.progress) options.progress(item, open.done, b.source_bytes);
    result.seconds.processors += watch.seconds();
    if (!block.is_last) return;
    source.shards()[static_cast<std::size_t>(item.source->shard)].file().check_unchanged();
    files.close_before(item.data.shard);
    recorder.add(block.item, {format_hash(XXH64_digest(&open.data)),
                              item.is_quantized() ? format_hash(XXH64_digest(&open.norms)) : "", open.source.result(),
                              open.check.result(), open.losses});
    open = OpenTensor();
  };
  const Stopwatch all;
  const double earlier = result.seconds.sum();
  const DeviceSeconds before = backend.device_seconds();
  parallel_ordered(threads, static_cast<std::int64_t>(blocks.size()), encode_block, finish_block);
  const DeviceSeconds after = backend.device_seconds();
  result.seconds.bus = after.upload - before.upload + after.download - before.download;
  result.seconds.kernels = after.kernels - before.kernels;
  result.seconds.processors = std::max(0.0, result.seconds.processors - result.seconds.bus - result.seconds.kernels);
  result.seconds.turns = std::max(0.0, threads * all.seconds() - (result.seconds.sum() - earlier));
  const Stopwatch watch;
  recorder.finish();
  result.seconds.writing += threads * watch.seconds();
}

}  // namespace

PackWeightsResult pack_weights(const Checkpoint& source, const WeightPlan& plan, const Backend& backend, const std::string& dir,
                               const PackRun& run, const PackWeightsOptions& options) {
  PackWeightsResult result;
  std::optional<PackSession> session = begin_session(dir, source, plan, run, options.resume);
  if (!session) {
    WeightReader::open(dir, backend).check_hashes(options.threads, options.check_progress);
    result.was_complete = result.is_complete = true;
    return result;
  }
  // From here on nobody else is at work on this part.
  result.lost = session->forget_lost(plan);
  if (options.check_all) result.sampled = session->forget_sampled(plan);
  result.resumed = std::count_if(session->records.begin(), session->records.end(), [](const auto& r) { return r.has_value(); });
  const Stopwatch checking;
  check_finished(dir, plan, session->records, options.threads, options.check_progress);
  check_sources(source, plan, session->records, options.threads);
  result.seconds.reading += std::min(options.threads, kMostPackThreads) * checking.seconds();
  // From here on every tensor with a record is as it was written, from the source that is there.
  if (!session->is_finished(plan)) {
    reserve_shards(*session, plan);
    // From here on there is room for all.
    try {
      pack_blocks(source, plan, backend, *session, options, result);
    } catch (const RefusedValue&) {
      for (const SafetensorsFile& shard : source.shards()) shard.file().check_unchanged();  // or it may be half of a value
      session->discard(plan);
      throw;
    }
  }
  // From here on every tensor of the part is on disk and recorded.
  PackRun finished = session->run;
  finished.fingerprint = make_fingerprint(source, plan.options);  // what lies beside the weights is copied as it is now
  compare_fingerprints(weights_fingerprint(session->run.fingerprint), weights_fingerprint(finished.fingerprint), session->journal.path());
  const Stopwatch watch;
  if (run.options.parts == 1) {
    finish_output(dir, plan, finished, session->records, {session->journal.path()});
    result.is_complete = true;
  }
  result.seconds.writing += std::min(options.threads, kMostPackThreads) * watch.seconds();
  result.records = std::move(session->records);
  return result;
}

}  // namespace tq
