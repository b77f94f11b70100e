#include "lib/io/staged_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "lib/error.h"

namespace tq {
namespace {

std::string partial_of(const std::string& path) { return path + std::string(kPartialSuffix); }

OutputFile open_partial(const std::string& path, int flags) {
  const std::string partial = partial_of(path);
  FileDescriptor fd(::open(partial.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW | flags, 0666));
  if (fd.get() < 0) {
    throw Error(fmt::format("{}: cannot be opened for writing: {}; make it writable, and --resume goes on", partial,
                            describe_errno(errno)));
  }
  return OutputFile(std::move(fd), partial, "make room, and --resume goes on");
}

}  // namespace

void StagedFile::create(const std::string& path, std::uint64_t bytes) {
  open_partial(path, O_CREAT | O_TRUNC).reserve(bytes);
}

std::optional<std::uint64_t> StagedFile::find(const std::string& path) {
  struct stat status {};
  if (::lstat(partial_of(path).c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  return static_cast<std::uint64_t>(status.st_size);
}

void StagedFile::remove(const std::string& path) {
  std::error_code error;
  if (std::filesystem::remove(partial_of(path), error); error) {
    throw Error(fmt::format("{}: cannot be deleted: {}", partial_of(path), error.message()));
  }
}

void StagedFile::take_back(const std::string& path) {
  if (std::rename(path.c_str(), partial_of(path).c_str()) == 0) return;
  throw Error(fmt::format("{}: cannot be renamed: {}", path, describe_errno(errno)));
}

StagedFile StagedFile::open(const std::string& path) { return StagedFile(open_partial(path, 0)); }

InputFile StagedFile::open_for_reading(const std::string& path) {
  return InputFile::open(find(path) ? partial_of(path) : path);
}

void StagedFile::publish(const std::string& path, bool overwrite) {
  std::error_code ignored;
  if (!find(path) && std::filesystem::exists(path, ignored)) return;
  open_partial(path, 0).sync();
  int error = 0;
  if (overwrite) {
    error = std::rename(partial_of(path).c_str(), path.c_str()) == 0 ? 0 : errno;
  } else {
    error = rename_without_replacing(partial_of(path).c_str(), path.c_str());
  }
  if (error == EEXIST) {
    throw Error(fmt::format("{}: has appeared while tq was writing and is left alone; move it away, and --resume goes on",
                            path));
  }
  if (error != 0) throw Error(fmt::format("{}: cannot be put in place: {}", path, describe_errno(error)));
  sync_directory(path, std::filesystem::path(path).parent_path().string());
}

}  // namespace tq
