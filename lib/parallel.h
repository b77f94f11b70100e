// Threads for work that comes in numbered pieces.
#pragma once

#include <cstdint>
#include <functional>

namespace tq {

/// Threads that the machine runs at once, at least 1.
int default_threads();

/// Calls work(piece) for each piece 0..count-1 from up to `threads` threads, and returns when all are done. The exception
/// of the lowest piece that threw is thrown again; pieces not begun by then are left out.
void parallel_for(int threads, std::int64_t count, const std::function<void(std::int64_t piece)>& work);

/// Calls produce(piece, worker) in parallel, and finish(piece, worker) in ascending order, one at a time: for results
/// that must be hashed or written in order. `worker` is 0..threads-1, the same in both calls, for buffers.
void parallel_ordered(int threads, std::int64_t count,
                      const std::function<void(std::int64_t piece, int worker)>& produce,
                      const std::function<void(std::int64_t piece, int worker)>& finish);

/// Told of work that was finished: `amount` more of the unit that the caller announced (bytes or rows). Thread-safe.
using Progress = std::function<void(std::uint64_t amount)>;

}  // namespace tq
