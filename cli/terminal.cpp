#include "cli/terminal.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace tq::cli {
namespace {

constexpr std::chrono::milliseconds kRedraw(100);
constexpr int kBarWidth = 24;

bool wants_bar(bool quiet) {
  const char* no_color = std::getenv("NO_COLOR");
  return !quiet && (no_color == nullptr || *no_color == '\0') && isatty(STDERR_FILENO) == 1;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

std::string format_bytes(std::uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  if (bytes < 1000) return fmt::format("{} B", bytes);
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 999.5 && unit + 1 < std::size(kUnits)) {
    value /= 1000.0;
    ++unit;
  }
  const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f} {}", value, decimals, kUnits[unit]);
}

std::string format_count(std::uint64_t count) {
  const std::string digits = std::to_string(count);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

ProgressBar::ProgressBar(std::string label, std::uint64_t total, Unit unit, bool quiet)
    : label_(std::move(label)), total_(total), unit_(unit), shown_(wants_bar(quiet)) {}

ProgressBar::~ProgressBar() { finish(); }

std::string ProgressBar::finish() {
  if (std::exchange(shown_, false)) std::fputs("\r\033[K", stderr);
  return describe_rate();
}

Progress ProgressBar::callback() {
  return [this](std::uint64_t amount) {
    done_ += amount;
    if (shown_) draw();
  };
}

void ProgressBar::set_note(const std::string& name, std::uint64_t done, std::uint64_t total) {
  if (!shown_) return;
  const std::lock_guard lock(mutex_);
  note_ = fmt::format("  {} {:.0f} %", name, 100.0 * static_cast<double>(done) / static_cast<double>(std::max<std::uint64_t>(total, 1)));
}

std::string ProgressBar::describe_rate() const {
  const double seconds = seconds_since(start_);
  const double rate = static_cast<double>(done_.load()) / std::max(seconds, 1e-9);
  switch (unit_) {
    case Unit::kBytes: return fmt::format("{:.2f} s, {}/s", seconds, format_bytes(static_cast<std::uint64_t>(rate)));
    case Unit::kValues: return fmt::format("{:.2f} s, {:.1f} M values/s", seconds, rate * 1e-6);
    case Unit::kHeads: break;
  }
  return fmt::format("{:.2f} s, {:.1f} heads/s", seconds, rate);
}

void ProgressBar::draw() {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  const auto now = std::chrono::steady_clock::now();
  if (!lock.owns_lock() || now < next_draw_) return;
  next_draw_ = now + kRedraw;
  const double share = std::min(1.0, static_cast<double>(done_.load()) / static_cast<double>(std::max<std::uint64_t>(total_, 1)));
  const double left = share > 0 ? seconds_since(start_) * (1.0 - share) / share : 0.0;
  const auto filled = static_cast<std::size_t>(share * kBarWidth);
  std::fputs(fmt::format("\r\033[K{} [{}{}] {:3.0f} %  {}  {:.0f} s left{}", label_, std::string(filled, '#'),
                         std::string(kBarWidth - filled, '.'), 100.0 * share, describe_rate(), left, note_).c_str(), stderr);
  std::fflush(stderr);
}

void say(bool quiet, const std::string& line) {
  if (!quiet) std::fprintf(stderr, "%s\n", line.c_str());
}

void warn(const std::string& line) { std::fprintf(stderr, "tq: warning: %s\n", line.c_str()); }

}  // namespace tq::cli
