// Reading regular files at byte offsets. Everything that tq reads comes through InputFile: one
// descriptor, positioned reads that are whole or an Error, and no shared file position, so that
// threads may read the same file at once.
#pragma once

#include <time.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace tq {

/// Owns one open descriptor and closes it; -1 owns nothing.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd = -1) noexcept : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor();

  int get() const noexcept { return fd_; }

 private:
  int fd_;
};

/// The system's words for an errno value, such as "No such file or directory".
std::string describe_errno(int error);

/// A regular file that is open for reading. Move-only; reading is thread-safe.
class InputFile {
 public:
  /// Opens `path` and notes its size. Error for a file that is missing or unreadable, and for a
  /// directory, a pipe or a device: tq reads at offsets, which only a regular file allows. Never
  /// waits (a FIFO is refused at once).
  static InputFile open(const std::string& path);

  /// Bytes in the file when it was opened.
  std::uint64_t size() const { return size_; }

  /// The path as it was given to open(); error messages begin with it.
  const std::string& path() const { return path_; }

  /// Fills `out` with the bytes at `offset` (in bytes from the start of the file). Whole or Error:
  /// a range that goes beyond size(), a device error, and a file that has shrunk since are each
  /// named with file and byte offset.
  void read(std::uint64_t offset, std::span<std::byte> out) const;

  /// Has the system fetch that range from the disk while the caller is busy with something else.
  /// Never an Error.
  void expect(std::uint64_t offset, std::uint64_t bytes) const;

  /// Error if the file's size or time of writing changed since it was opened: what was read may be
  /// neither the old bytes nor the new ones.
  void check_unchanged() const;

 private:
  InputFile(std::string path, FileDescriptor fd, std::uint64_t size, timespec written)
      : path_(std::move(path)), fd_(std::move(fd)), size_(size), written_(written) {}

  std::string path_;
  FileDescriptor fd_;
  std::uint64_t size_;
  timespec written_;  // st_mtim
};

}  // namespace tq
