// Where the threads of pack_weights() spent their time, and so what bounds it: in a closed circle of threads, most of them stand
// before the slowest station.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

namespace tq {

/// Seconds, summed over threads.
struct PackSeconds {
  double reading = 0;     ///< the source
  double writing = 0;     ///< the output, with the wait at the end until it is on the disk, in which all threads stand
  double bus = 0;         ///< rows on their way to a GPU, and codes back; waiting for it behind other threads counts
  double kernels = 0;     ///< of a GPU, likewise
  double processors = 0;  ///< encoding on the CPU, checks, hashes, copies in memory
  double turns = 0;       ///< waiting until earlier blocks, which are at one of the above, are hashed and recorded in order

  void add(const PackSeconds& other) {
    reading += other.reading;
    writing += other.writing;
    bus += other.bus;
    kernels += other.kernels;
    processors += other.processors;
    turns += other.turns;
  }

  struct Named {
    std::string_view name;
    double seconds;
  };
  std::array<Named, 6> all() const {
    return {{{"reading", reading}, {"writing", writing}, {"bus", bus}, {"kernels", kernels}, {"processors", processors}, {"turns", turns}}};
  }
  double sum() const { return reading + writing + bus + kernels + processors + turns; }
  /// The name of the largest but for turns.
  std::string_view bound() const {
    const auto parts = all();
    return std::max_element(parts.begin(), parts.end() - 1, [](const Named& a, const Named& b) { return a.seconds < b.seconds; })->name;
  }
};

}  // namespace tq
