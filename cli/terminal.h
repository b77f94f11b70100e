// Messages and progress on stderr. On a terminal a bar shows the share done, the rate and the time left; elsewhere, with
// NO_COLOR or --quiet, there are only plain lines.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

#include "lib/parallel.h"

namespace tq::cli {

/// "1.50 MB": decimal units, three digits.
std::string format_bytes(std::uint64_t bytes);
/// "1,234,567".
std::string format_count(std::uint64_t count);

class ProgressBar {
 public:
  enum class Unit { kBytes, kHeads, kValues };
  ProgressBar(std::string label, std::uint64_t total, Unit unit, bool quiet);
  /// Clears the bar.
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// Give this to a pipeline; it refers to the bar.
  Progress callback();
  /// Shows a name beside the bar, and how far it is: done of total.
  void set_note(const std::string& name, std::uint64_t done, std::uint64_t total);
  /// Clears the bar for good. "1.2 s, 345 MB/s": the time since it was made, and the rate.
  std::string finish();

 private:
  void draw();
  std::string describe_rate() const;

  std::string label_;
  std::string note_;
  std::uint64_t total_;
  Unit unit_;
  bool shown_;
  std::atomic<std::uint64_t> done_ = 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point next_draw_ = start_;
  std::mutex mutex_;
};

/// One line on stderr, unless quiet.
void say(bool quiet, const std::string& line);
/// "tq: warning: ..." on stderr, also when quiet.
void warn(const std::string& line);

}  // namespace tq::cli
