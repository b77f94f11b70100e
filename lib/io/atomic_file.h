// Writing a file so that its name only ever stands for a whole file. The bytes go to a temporary
// beside the target, PATH.tmp-<pid>-<8 hex digits>: its extension is none that tq or a model loader
// looks for, so a left-over (power cut, SIGKILL) never looks whole and can be deleted. commit()
// makes it durable and gives it its name in one step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "lib/io/output_file.h"

namespace tq {

/// A file in the making. Move-only. At most 64 exist at a time.
class AtomicFile {
 public:
  /// Creates the temporary. Error, before any long work: `path` exists and `overwrite` is false
  /// (the message names
  /// --force); it is a directory, a pipe or a device; its directory is missing or not writable.
  /// UsageError for "-", /dev/stdout and the like: the result is a file, because it is written at
  /// offsets. With `overwrite`, a symbolic link at `path` is itself replaced, not the file that it
  /// points to.
  static AtomicFile open(const std::string& path, bool overwrite);

  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;

  /// Removes the temporary unless commit() has succeeded.
  ~AtomicFile();

  /// The target, as given to open().
  const std::string& path() const { return path_; }

  /// As OutputFile::reserve() and write().
  void reserve(std::uint64_t bytes);
  void write(std::uint64_t offset, std::span<const std::byte> data);

  /// fsync, rename to the target, fsync of the directory. Without `overwrite` a target that has
  /// appeared since open() is left alone: an Error. After an Error before the rename the target is
  /// untouched.
  void commit();

 private:
  AtomicFile(std::string path, bool overwrite);
  void rename_to_target();

  std::string path_;
  std::string temporary_;  // absolute; empty once there is nothing to remove
  OutputFile file_;
  bool overwrite_;
  int slot_ = -1;  // in the registry of temporaries
};

/// For a command that turns one file into another: Error if `output` is the very file `input`, also under another name, and
/// what open() would refuse; creates nothing that stays.
void check_output(const std::string& input, const std::string& output, bool overwrite);

/// Unlinks the temporaries of all AtomicFiles. Async-signal-safe: for the handler of SIGINT and
/// SIGTERM, just before the process ends; a later commit() of one of those files is an Error.
void remove_pending_temporaries() noexcept;

}  // namespace tq
