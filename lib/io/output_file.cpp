#include "lib/io/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <limits>

#include "lib/error.h"

namespace tq {
namespace {

bool is_unsupported(int error) { return error == EINVAL || error == ENOSYS || error == EOPNOTSUPP; }

}  // namespace

void OutputFile::reserve(std::uint64_t bytes) {
  if (bytes > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max())) {
    throw Error(fmt::format("{}: {} bytes are more than a file can hold", path_, bytes));
  }
  const off_t length = static_cast<off_t>(bytes);
  int result = 0;
  do {
    result = length == 0 ? 0 : ::fallocate(fd_.get(), 0, 0, length);
  } while (result != 0 && errno == EINTR);
  if (result != 0 && is_unsupported(errno)) result = ::ftruncate(fd_.get(), length);
  if (result != 0) {
    throw Error(
        fmt::format("{}: there is no room for {} bytes: {}; free as many or choose another place", path_, bytes, describe_errno(errno)));
  }
}

void OutputFile::write(std::uint64_t offset, std::span<const std::byte> data) {
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());
  if (offset > kMost || data.size() > kMost - offset) {
    throw Error(fmt::format("{}: byte offset {} is beyond what a file can hold", path_, offset));
  }
  while (!data.empty()) {
    const ssize_t put = ::pwrite(fd_.get(), data.data(), data.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) {
      throw Error(fmt::format("{}: cannot be written at byte offset {}: {}; {}", path_, offset,
                              describe_errno(put < 0 ? errno : EIO), consequence_));
    }
    data = data.subspan(static_cast<std::size_t>(put));
    offset += static_cast<std::uint64_t>(put);
  }
}

void OutputFile::sync() {
  if (::fsync(fd_.get()) == 0) return;
  throw Error(
      fmt::format("{}: cannot be made durable: {}; {}", path_, describe_errno(errno), consequence_));
}

int rename_without_replacing(const char* from, const char* to) {
  if (::renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return 0;
  if (!is_unsupported(errno)) return errno;
  if (::link(from, to) == 0) {
    ::unlink(from);
    return 0;
  }
  if (errno != EPERM && !is_unsupported(errno)) return errno;
  // Some network and FAT file systems have neither; what is left is to look first.
  struct stat status {};
  if (::lstat(to, &status) == 0) return EEXIST;
  return ::rename(from, to) == 0 ? 0 : errno;
}

void sync_directory(const std::string& path, const std::string& directory) {
  const FileDescriptor fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // A directory that may be written but not read cannot be opened, and some file systems cannot
  // sync one.
  if (fd.get() < 0 || ::fsync(fd.get()) == 0 || is_unsupported(errno)) return;
  throw Error(
      fmt::format("{}: is written whole, but its directory entry may not survive a power cut: {}",
                  path, describe_errno(errno)));
}

}  // namespace tq
