#include "lib/io/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "lib/error.h"

namespace tq {

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

std::string describe_errno(int error) { return std::generic_category().message(error); }

InputFile InputFile::open(const std::string& path) {
  // O_NONBLOCK: opening a FIFO that has no writer would wait for ever; on a regular file it has no
  // effect.
  FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() < 0) {
    throw Error(fmt::format("{}: cannot be opened for reading: {}", path, describe_errno(errno)));
  }
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) {
    throw Error(fmt::format("{}: cannot be examined: {}", path, describe_errno(errno)));
  }
  if (S_ISDIR(status.st_mode)) {
    throw Error(fmt::format("{}: is a directory; name a file", path));
  }
  if (!S_ISREG(status.st_mode)) {
    throw Error(fmt::format(
        "{}: is a pipe or a device; tq reads at offsets, so save it as a regular file first",
        path));
  }
  return InputFile(path, std::move(fd), static_cast<std::uint64_t>(status.st_size),
                   status.st_mtim);
}

void InputFile::expect(std::uint64_t offset, std::uint64_t bytes) const {
  if (bytes == 0) return;  // to the system it would mean: to the end of the file
  ::posix_fadvise(fd_.get(), static_cast<off_t>(offset), static_cast<off_t>(bytes),
                  POSIX_FADV_WILLNEED);
}

void InputFile::check_unchanged() const {
  struct stat status {};
  if (::fstat(fd_.get(), &status) != 0) {
    throw Error(fmt::format("{}: cannot be examined: {}", path_, describe_errno(errno)));
  }
  if (static_cast<std::uint64_t>(status.st_size) == size_ &&
      status.st_mtim.tv_sec == written_.tv_sec && status.st_mtim.tv_nsec == written_.tv_nsec) {
    return;
  }
  throw Error(fmt::format(
      "{}: was written to while tq read it; let whoever writes it finish, and try again", path_));
}

void InputFile::read(std::uint64_t offset, std::span<std::byte> out) const {
  if (offset > size_ || out.size() > size_ - offset) {
    throw Error(fmt::format("{}: {} bytes at byte offset {} were wanted, but the file has {} bytes",
                            path_, out.size(), offset, size_));
  }
  while (!out.empty()) {
    const ssize_t got = ::pread(fd_.get(), out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      throw Error(fmt::format("{}: cannot be read at byte offset {}: {}", path_, offset,
                              describe_errno(errno)));
    }
    if (got == 0) {
      throw Error(fmt::format(
          "{}: ends at byte offset {} but had {} bytes when it was opened; do not change it "
          "while tq reads it",
          path_, offset, size_));
    }
    out = out.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
}

}  // namespace tq
