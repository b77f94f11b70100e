#include "lib/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace tq {
namespace {

/// Runs body(worker) in `workers` threads, the caller's own among them.
void run_workers(int workers, const std::function<void(int)>& body) {
  std::vector<std::jthread> threads;
  for (int worker = 1; worker < workers; ++worker) threads.emplace_back(body, worker);
  body(0);
}

int worker_count(int threads, std::int64_t count) {
  return static_cast<int>(std::clamp<std::int64_t>(threads, 1, std::max<std::int64_t>(count, 1)));
}

}  // namespace

int default_threads() { return static_cast<int>(std::max(1u, std::thread::hardware_concurrency())); }

void parallel_for(int threads, std::int64_t count, const std::function<void(std::int64_t)>& work) {
  std::atomic<std::int64_t> next = 0;
  std::atomic<bool> failed = false;
  std::mutex mutex;
  std::int64_t failed_piece = count;
  std::exception_ptr failure;
  run_workers(worker_count(threads, count), [&](int) {
    while (!failed) {
      const std::int64_t piece = next++;
      if (piece >= count) return;
      try {
        work(piece);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (piece < failed_piece) {
          failed_piece = piece;
          failure = std::current_exception();
        }
        failed = true;
      }
    }
  });
  if (failure) std::rethrow_exception(failure);
}

void parallel_ordered(int threads, std::int64_t count, const std::function<void(std::int64_t, int)>& produce,
                      const std::function<void(std::int64_t, int)>& finish) {
  std::atomic<std::int64_t> next = 0;
  std::mutex mutex;
  std::condition_variable turn_changed;
  std::int64_t turn = 0;  // count once something failed: nobody waits any more
  std::exception_ptr failure;
  run_workers(worker_count(threads, count), [&](int worker) {
    for (std::int64_t piece = next++; piece < count; piece = next++) {
      std::exception_ptr own_failure;
      try {
        produce(piece, worker);
      } catch (...) {
        own_failure = std::current_exception();
      }
      std::unique_lock lock(mutex);
      turn_changed.wait(lock, [&] { return turn == piece || failure; });
      if (failure) return;
      lock.unlock();
      if (!own_failure) {
        try {
          finish(piece, worker);
        } catch (...) {
          own_failure = std::current_exception();
        }
      }
      lock.lock();
      failure = own_failure;
      ++turn;
      lock.unlock();
      turn_changed.notify_all();
      if (own_failure) return;
    }
  });
  if (failure) std::rethrow_exception(failure);
}

}  // namespace tq
