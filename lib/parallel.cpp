#include "lib/parallel.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "lib/error.h"

namespace tq {
namespace {

/// Threads that wait for work from call to call: starting sixteen takes longer than many a call's work. They serve one caller at a
/// time.
class Crew {
 public:
  ~Crew() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
  }

  /// False, and nothing is done, while they serve another caller, such as the piece of work that asks.
  bool run(int workers, const std::function<void(int)>& body) {
    if (busy_.exchange(true)) return false;
    try {
      begin(workers, body);
    } catch (...) {  // a thread more is not to be had
      busy_ = false;
      throw;
    }
    const Wait wait{*this};  // also if body throws
    body(0);
    return true;
  }

 private:
  struct Wait {
    Crew& crew;
    ~Wait() {
      std::unique_lock lock(crew.mutex_);
      crew.done_.wait(lock, [this] { return crew.left_ == 0; });
      lock.unlock();
      crew.busy_ = false;
    }
  };

  void begin(int workers, const std::function<void(int)>& body) {
    {
      const std::lock_guard lock(mutex_);
      while (static_cast<int>(threads_.size()) + 1 < workers) {
        threads_.emplace_back([this, worker = static_cast<int>(threads_.size()) + 1, round = round_] { serve(worker, round); });
      }
      body_ = &body;
      workers_ = workers;
      left_ = workers - 1;
      ++round_;
    }
    changed_.notify_all();
  }

  void serve(int worker, std::uint64_t seen) {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return ending_ || round_ != seen; });
      if (ending_) return;
      seen = round_;
      if (worker >= workers_) continue;
      const std::function<void(int)>& body = *body_;
      lock.unlock();
      body(worker);
      lock.lock();
      if (--left_ == 0) done_.notify_one();
    }
  }

  std::atomic<bool> busy_ = false;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_, done_;
  const std::function<void(int)>* body_ = nullptr;
  int workers_ = 0;
  int left_ = 0;             // workers that are not done
  std::uint64_t round_ = 0;  // calls so far
  bool ending_ = false;
  std::vector<std::jthread> threads_;  // last: they are joined before the rest goes
};

/// Runs body(worker) in `workers` threads, the caller's own among them.
void run_workers(int workers, const std::function<void(int)>& body) {
  if (workers == 1) return body(0);
  static Crew crew;
  try {
    if (crew.run(workers, body)) return;
    std::vector<std::jthread> threads;
    for (int worker = 1; worker < workers; ++worker) threads.emplace_back(body, worker);
    body(0);
  } catch (const std::system_error& error) {  // bodies throw none
    throw Error(fmt::format("{} threads cannot be started: {}; ask for fewer with --threads", workers, error.code().message()));
  }
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
