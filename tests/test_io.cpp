// The lowest floor: files that are read whole or refused, and files that appear whole or not at
// all.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "lib/io/atomic_file.h"
#include "lib/io/file.h"
#include "tests/io_helpers.h"

using namespace tq;
using namespace tq::test;

TEST_CASE("InputFile notices that it was written to since it was opened, and nothing else") {
  const Scratch scratch;
  const std::string path = scratch / "a";
  put_file(path, "0123456789");
  const InputFile file = InputFile::open(path);
  std::string out(10, ' ');
  file.expect(4, 6);
  file.expect(8, 1 << 20);  // more than there is
  file.read(0, std::as_writable_bytes(std::span(out)));
  REQUIRE(::chmod(path.c_str(), 0400) == 0);
  CHECK(error_of([&] { file.check_unchanged(); }) == "no error");

  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  timespec times[2] = {status.st_atim, status.st_mtim};
  times[1].tv_nsec += times[1].tv_nsec < 999'999'999 ? 1 : -1;
  REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, 0) == 0);
  check_contains(error_of([&] { file.check_unchanged(); }), path + ": was written to while tq read it");
  times[1] = status.st_mtim;
  REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, 0) == 0);
  CHECK(error_of([&] { file.check_unchanged(); }) == "no error");
  REQUIRE(::chmod(path.c_str(), 0600) == 0);
  REQUIRE(::truncate(path.c_str(), 9) == 0);
  REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, 0) == 0);
  check_contains(error_of([&] { file.check_unchanged(); }), "was written to");
}

TEST_CASE("InputFile reads whole ranges and refuses what is not a regular file") {
  const Scratch scratch;
  put_file(scratch / "a", "0123456789");
  const InputFile file = InputFile::open(scratch / "a");
  CHECK(file.size() == 10);
  std::string out(4, ' ');
  file.read(6, std::as_writable_bytes(std::span(out)));
  CHECK(out == "6789");
  check_contains(error_of([&] { file.read(7, std::as_writable_bytes(std::span(out))); }),
                 "byte offset 7");
  check_contains(error_of([&] { file.read(~0ULL, std::as_writable_bytes(std::span(out))); }),
                 "has 10 bytes");
  CHECK(error_of([&] { file.read(10, {}); }) == "no error");

  REQUIRE(::truncate((scratch / "a").c_str(), 8) == 0);
  check_contains(error_of([&] { file.read(6, std::as_writable_bytes(std::span(out))); }),
                 "ends at byte offset 8");

  REQUIRE(::mkfifo((scratch / "fifo").c_str(), 0600) == 0);
  check_contains(error_of([&] { InputFile::open(scratch / "fifo"); }), "fifo: is a pipe");
  check_contains(error_of([&] { InputFile::open(scratch.dir); }), "is a directory");
  check_contains(error_of([&] { InputFile::open(scratch / "none"); }),
                 "none: cannot be opened for reading: No such");
  check_contains(error_of([&] { InputFile::open("/dev/zero"); }), "device");
  if (::geteuid() != 0) {
    REQUIRE(::chmod((scratch / "a").c_str(), 0) == 0);
    check_contains(error_of([&] { InputFile::open(scratch / "a"); }), "Permission denied");
  }
}

TEST_CASE("AtomicFile shows nothing before commit and the whole file after it") {
  const Scratch scratch;
  const std::string path = scratch / "out.tq3";
  {
    AtomicFile file = AtomicFile::open(path, false);
    AtomicFile moved = std::move(file);
    moved.write(3, bytes_of("def"));
    moved.write(0, bytes_of("abc"));
    CHECK_FALSE(fs::exists(path));
    CHECK(scratch.count() == 1);
    for (const auto& entry : fs::directory_iterator(scratch.dir)) {
      CHECK(entry.path().filename().string().starts_with("out.tq3.tmp-"));
    }
    moved.commit();
    CHECK(error_of([&] { moved.write(0, bytes_of("x")); }) != "no error");
    CHECK(error_of([&] { moved.commit(); }) != "no error");
  }
  CHECK(get_file(path) == "abcdef");
  CHECK(scratch.count() == 1);

  check_contains(error_of([&] { AtomicFile::open(path, false); }), "--force");
  { AtomicFile::open(path, true).write(0, bytes_of("lost")); }
  CHECK(get_file(path) == "abcdef");
  CHECK(scratch.count() == 1);

  AtomicFile replacing = AtomicFile::open(path, true);
  replacing.write(0, bytes_of("new"));
  replacing.commit();
  CHECK(get_file(path) == "new");
}

TEST_CASE("AtomicFile refuses a target that it cannot serve, before any work") {
  const Scratch scratch;
  put_file(scratch / "file", "x");
  for (const bool overwrite : {false, true}) {
    check_contains(error_of([&] { AtomicFile::open(scratch.dir, overwrite); }), "is a directory");
    check_contains(error_of([&] { AtomicFile::open(scratch / "new/", overwrite); }),
                   "is a directory");
    check_contains(error_of([&] { AtomicFile::open(scratch / "no/a", overwrite); }),
                   "cannot be created: No such");
    check_contains(error_of([&] { AtomicFile::open(scratch / "file/a", overwrite); }),
                   "cannot be created: Not a dir");
    check_contains(error_of([&] { AtomicFile::open("/dev/full", overwrite); }), "device");
    CHECK_THROWS_AS(AtomicFile::open("-", overwrite), UsageError);
    CHECK_THROWS_AS(AtomicFile::open("/dev/stdout", overwrite), UsageError);
    CHECK_THROWS_AS(AtomicFile::open("", overwrite), UsageError);
  }
  fs::create_symlink("nowhere", scratch / "dangling");
  check_contains(error_of([&] { AtomicFile::open(scratch / "dangling", false); }), "--force");
  CHECK(scratch.count() == 2);
}

TEST_CASE("AtomicFile does not clobber a file that appears while it writes") {
  const Scratch scratch;
  const std::string path = scratch / "out";
  {
    AtomicFile file = AtomicFile::open(path, false);
    file.write(0, bytes_of("mine"));
    put_file(path, "theirs");
    check_contains(error_of([&] { file.commit(); }), "--force");
  }
  CHECK(get_file(path) == "theirs");
  CHECK(scratch.count() == 1);
}

TEST_CASE("a full disk is an Error that names the file, and leaves nothing") {
  const Scratch scratch;
  const std::string path = scratch / "out";
  std::string reserved;
  std::string written;
  {
    const FileSizeLimit limit(4096);
    reserved = error_of([&] { AtomicFile::open(path, false).reserve(4097); });
    written = error_of([&] {
      AtomicFile file = AtomicFile::open(path, false);
      file.write(0, bytes_of(std::string(8192, 'x')));
      file.commit();
    });
  }
  check_contains(reserved, path + ": there is no room for 4097 bytes");
  check_contains(written, path + ": cannot be written at byte offset 4096");
  CHECK(scratch.count() == 0);
  AtomicFile file = AtomicFile::open(path, false);
  CHECK(error_of([&] { file.reserve(~0ULL); }) != "no error");
  CHECK(error_of([&] { file.write(~0ULL, bytes_of("x")); }) != "no error");
}

TEST_CASE("an interrupted process removes its temporaries, and a finished file stays") {
  const Scratch scratch;
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::signal(SIGTERM, [](int) {
      remove_pending_temporaries();
      ::_exit(7);
    });
    AtomicFile done = AtomicFile::open(scratch / "done", false);
    done.commit();
    AtomicFile one = AtomicFile::open(scratch / "one", false);
    AtomicFile two = AtomicFile::open(scratch / "two", false);
    two.write(0, bytes_of("two"));
    ::raise(SIGTERM);
    ::_exit(8);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WEXITSTATUS(status) == 7);
  CHECK(fs::exists(scratch / "done"));
  CHECK(scratch.count() == 1);
}

TEST_CASE("the registry of temporaries is bounded, and its slots are used again") {
  const Scratch scratch;
  for (int round = 0; round < 2; ++round) {
    std::vector<AtomicFile> files;
    for (int i = 0; i < 64; ++i)
      files.push_back(AtomicFile::open(scratch / std::to_string(i), false));
    check_contains(error_of([&] { AtomicFile::open(scratch / "64", false); }), "at once");
  }
  CHECK(scratch.count() == 0);
}
