#include "lib/io/journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <filesystem>

#include "lib/error.h"

namespace tq {
namespace {

constexpr std::size_t kHashDigits = 16;

std::string hash_of(std::string_view text) { return fmt::format("{:016x}", XXH64(text.data(), text.size(), 0)); }

struct Lines {
  std::vector<std::string> whole;
  std::uint64_t bytes = 0;  // that the whole lines take
};

Lines parse_lines(const std::string& text, const std::string& path) {
  Lines lines;
  std::size_t at = 0;
  for (std::size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n', at)) {
    const std::string_view line(text.data() + at, end - at);
    const bool whole = line.size() > kHashDigits && line[kHashDigits] == ' ' &&
                       line.substr(0, kHashDigits) == hash_of(line.substr(kHashDigits + 1));
    if (!whole && end + 1 == text.size()) break;  // it was being written when the process ended
    if (!whole) {
      throw Error(fmt::format("{}: line {} is damaged; start the run again with --force", path, lines.whole.size() + 1));
    }
    lines.whole.emplace_back(line.substr(kHashDigits + 1));
    at = end + 1;
  }
  lines.bytes = at;
  return lines;
}

std::string read_all(const std::string& path) {
  const InputFile file = InputFile::open(path);
  std::string text(file.size(), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

}  // namespace

Journal Journal::open(const std::string& path, int flags) {
  Journal journal(path, ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_APPEND | flags, 0666));
  if (journal.fd_.get() < 0) {
    throw Error(fmt::format("{}: cannot be written: {}; choose an output directory that you may write to", path,
                            describe_errno(errno)));
  }
  // Some network file systems have no locks; there it is the user's part to start a run once.
  if (::flock(journal.fd_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    throw Error(fmt::format("{}: another process is at work there; wait for it", path));
  }
  return journal;
}

Journal Journal::create(const std::string& path, const std::string& first_line) {
  Journal journal = open(path, O_CREAT);
  if (::ftruncate(journal.fd_.get(), 0) != 0) {
    throw Error(fmt::format("{}: cannot be written: {}", path, describe_errno(errno)));
  }
  journal.append({first_line});
  sync_directory(path, std::filesystem::path(path).parent_path().string());
  return journal;
}

Journal Journal::reopen(const std::string& path, std::vector<std::string>& lines) {
  Journal journal = open(path, 0);
  Lines parsed = parse_lines(read_all(path), path);
  if (::ftruncate(journal.fd_.get(), static_cast<off_t>(parsed.bytes)) != 0) {
    throw Error(fmt::format("{}: cannot be written: {}", path, describe_errno(errno)));
  }
  lines = std::move(parsed.whole);
  return journal;
}

std::vector<std::string> Journal::read(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return {};
  return parse_lines(read_all(path), path).whole;
}

std::string Journal::read_first_line(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return "";
  const std::string text = read_all(path);
  const std::size_t end = text.find('\n');
  if (end == std::string::npos || end <= kHashDigits) return "";
  const std::string line = text.substr(kHashDigits + 1, end - kHashDigits - 1);
  return text.substr(0, kHashDigits) == hash_of(line) ? line : "";
}

void Journal::append(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += fmt::format("{} {}\n", hash_of(line), line);
  std::string_view rest = text;
  while (!rest.empty()) {
    const ssize_t put = ::write(fd_.get(), rest.data(), rest.size());
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) {
      throw Error(fmt::format("{}: cannot be written: {}; make room, and --resume goes on", path_,
                              describe_errno(put < 0 ? errno : EIO)));
    }
    rest.remove_prefix(static_cast<std::size_t>(put));
  }
  if (::fdatasync(fd_.get()) != 0) {
    throw Error(fmt::format("{}: cannot be made durable: {}", path_, describe_errno(errno)));
  }
}

void Journal::remove() {
  if (::unlink(path_.c_str()) != 0 && errno != ENOENT) {
    throw Error(fmt::format("{}: cannot be deleted: {}", path_, describe_errno(errno)));
  }
}

}  // namespace tq
