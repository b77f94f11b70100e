#include "lib/io/atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <random>

#include "lib/error.h"

namespace tq {
namespace {

// The registry that a signal handler may read: fixed memory and lock-free states. The handler
// claims a slot before it reads the path, so that no other thread can refill the slot under it.
enum SlotState : int { kFree, kFilling, kActive, kClaimed };

struct Slot {
  std::atomic<int> state{kFree};
  char path[4096];
};
static_assert(std::atomic<int>::is_always_lock_free);

Slot g_slots[64];

int register_temporary(const std::string& path) {
  if (path.size() >= sizeof(Slot::path)) throw Error(fmt::format("{}: the path is too long", path));
  for (int i = 0; i < static_cast<int>(std::size(g_slots)); ++i) {
    int expected = kFree;
    if (!g_slots[i].state.compare_exchange_strong(expected, kFilling)) continue;
    std::memcpy(g_slots[i].path, path.c_str(), path.size() + 1);
    g_slots[i].state.store(kActive);
    return i;
  }
  throw Error(
      fmt::format("{}: more than {} files are being written at once", path, std::size(g_slots)));
}

void unregister_temporary(int slot) noexcept {
  int expected = kActive;
  g_slots[slot].state.compare_exchange_strong(expected, kFree);
}

void refuse_unusable_target(const std::string& path, bool overwrite) {
  if (path.empty()) throw UsageError("the output file has no name; give a path");
  if (path == "-" || path == "/dev/stdout" || path == "/dev/stderr" ||
      path.starts_with("/dev/fd/")) {
    throw UsageError(fmt::format(
        "{}: tq does not write to standard output or to a descriptor; name a file", path));
  }
  struct stat status {};
  const bool reachable = ::stat(path.c_str(), &status) == 0;
  if (path.back() == '/' || (reachable && S_ISDIR(status.st_mode))) {
    throw Error(fmt::format("{}: is a directory; name a file to write", path));
  }
  if (reachable && !S_ISREG(status.st_mode)) {
    throw Error(fmt::format("{}: is a pipe or a device; name a regular file to write", path));
  }
  // lstat as well: a dangling symbolic link exists, too.
  if (!overwrite && ::lstat(path.c_str(), &status) == 0) {
    throw Error(fmt::format("{}: exists already; use --force to replace it", path));
  }
}

}  // namespace

AtomicFile AtomicFile::open(const std::string& path, bool overwrite) {
  refuse_unusable_target(path, overwrite);
  return AtomicFile(path, overwrite);
}

AtomicFile::AtomicFile(std::string path, bool overwrite)
    : path_(std::move(path)), overwrite_(overwrite) {
  temporary_ = fmt::format("{}.tmp-{}-{:08x}", std::filesystem::absolute(path_).string(),
                           ::getpid(), std::random_device()());
  // First into the registry, then onto the disk: a signal between the two leaves nothing behind.
  slot_ = register_temporary(temporary_);
  FileDescriptor fd(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (fd.get() < 0) {
    const int error = errno;
    unregister_temporary(slot_);
    throw Error(
        fmt::format("{}: cannot be created: {}; choose an existing directory that you may write to",
                    path_, describe_errno(error)));
  }
  file_ = OutputFile(std::move(fd), path_, "nothing is kept");
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      file_(std::move(other.file_)),
      overwrite_(other.overwrite_),
      slot_(std::exchange(other.slot_, -1)) {}

AtomicFile::~AtomicFile() {
  if (temporary_.empty()) return;
  ::unlink(temporary_.c_str());
  unregister_temporary(slot_);
}

void AtomicFile::reserve(std::uint64_t bytes) { file_.reserve(bytes); }

void AtomicFile::write(std::uint64_t offset, std::span<const std::byte> data) { file_.write(offset, data); }

void AtomicFile::commit() {
  if (temporary_.empty()) throw Error(fmt::format("{}: was committed already", path_));
  file_.sync();
  rename_to_target();
  const std::filesystem::path directory = std::filesystem::path(temporary_).parent_path();
  unregister_temporary(slot_);
  temporary_.clear();
  file_ = OutputFile();
  sync_directory(path_, directory.string());
}

void AtomicFile::rename_to_target() {
  const std::string target = temporary_.substr(0, temporary_.rfind(".tmp-"));
  int error = 0;
  if (overwrite_) {
    error = std::rename(temporary_.c_str(), target.c_str()) == 0 ? 0 : errno;
  } else {
    error = rename_without_replacing(temporary_.c_str(), target.c_str());
  }
  if (error == EEXIST) {
    throw Error(fmt::format(
        "{}: has appeared while tq was writing and is left alone; use --force to replace it",
        path_));
  }
  if (error != 0) {
    throw Error(fmt::format("{}: cannot be put in place: {}; nothing is kept", path_,
                            describe_errno(error)));
  }
}

void remove_pending_temporaries() noexcept {
  const int saved = errno;
  for (Slot& slot : g_slots) {
    int expected = kActive;
    if (slot.state.compare_exchange_strong(expected, kClaimed)) ::unlink(slot.path);
  }
  errno = saved;
}

void check_output(const std::string& input, const std::string& output, bool overwrite) {
  std::error_code ignored;
  if (std::filesystem::equivalent(input, output, ignored)) {
    throw Error(fmt::format("{}: is the input itself; choose another output", output));
  }
  AtomicFile::open(output, overwrite);
}

}  // namespace tq
