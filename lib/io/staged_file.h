// A file in the making that outlives its process, so that an interrupted run can go on: PATH.tq-partial, of its final size
// from the start, filled at offsets in any order, and given its name when it is whole. No loader looks for that extension.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "lib/io/output_file.h"

namespace tq {

/// Ends the name of a file that is not whole.
inline constexpr std::string_view kPartialSuffix = ".tq-partial";

/// Move-only.
class StagedFile {
 public:
  /// Creates PATH.tq-partial, or empties the one that is there, and reserves `bytes`. Error, which names what to do: the
  /// directory cannot be written, or there is no room.
  static void create(const std::string& path, std::uint64_t bytes);

  /// Bytes of PATH.tq-partial; nothing if there is none.
  static std::optional<std::uint64_t> find(const std::string& path);

  /// Opens PATH.tq-partial for writing. Error if there is none.
  static StagedFile open(const std::string& path);

  /// Deletes PATH.tq-partial if it is there.
  static void remove(const std::string& path);

  /// Undoes publish(): PATH is PATH.tq-partial again.
  static void take_back(const std::string& path);

  /// PATH.tq-partial for reading; PATH itself if it has been published.
  static InputFile open_for_reading(const std::string& path);

  /// Thread-safe for ranges that do not overlap. Error as OutputFile::write().
  void write(std::uint64_t offset, std::span<const std::byte> data) { file_.write(offset, data); }

  /// Makes what was written durable.
  void sync() { file_.sync(); }

  /// Makes PATH.tq-partial durable and renames it to PATH; does nothing if that has been done. Error if there is neither,
  /// and for a PATH that exists unless `overwrite`.
  static void publish(const std::string& path, bool overwrite);

 private:
  explicit StagedFile(OutputFile file) : file_(std::move(file)) {}

  OutputFile file_;
};

}  // namespace tq
