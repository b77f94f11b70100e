// Writing a file at byte offsets: what AtomicFile and StagedFile share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "lib/io/file.h"

namespace tq {

/// Owns a descriptor that is open for writing. Move-only.
class OutputFile {
 public:
  /// Owns nothing.
  OutputFile() = default;
  /// `path` begins each message, and `consequence` ends it: what becomes of the work, such as "nothing is kept".
  OutputFile(FileDescriptor fd, std::string path, std::string consequence)
      : fd_(std::move(fd)), path_(std::move(path)), consequence_(std::move(consequence)) {}

  /// Makes the file `bytes` long and, where the file system can, reserves the space, so that a full disk or a file size
  /// limit is an Error now and not after hours.
  void reserve(std::uint64_t bytes);

  /// Writes all of `data` at `offset` (bytes from the start), growing the file as needed. Thread-safe for ranges that do not
  /// overlap. Error with file and byte offset when the disk is full or a limit is reached. (For RLIMIT_FSIZE the process
  /// must ignore SIGXFSZ, or the signal ends it first.)
  void write(std::uint64_t offset, std::span<const std::byte> data);

  /// Makes what was written durable.
  void sync();

 private:
  FileDescriptor fd_;
  std::string path_;
  std::string consequence_;
};

/// Makes the entries of a directory durable where the file system can; `path` begins the message of the Error.
void sync_directory(const std::string& path, const std::string& directory);

/// Renames and leaves an existing target alone. Returns 0 or an errno value (EEXIST for a target that exists).
int rename_without_replacing(const char* from, const char* to);

}  // namespace tq
