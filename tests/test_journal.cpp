// What a resumable run leaves on disk: a journal whose lines are whole or not there, files that are not whole by name.
#include <thread>
#include <vector>

#include "lib/io/journal.h"
#include "lib/io/staged_file.h"
#include "tests/io_helpers.h"

using namespace tq;
using namespace tq::test;

TEST_CASE("a journal is read back to its last whole line, at every truncation") {
  const Scratch dir;
  const std::string path = dir / "j";
  CHECK(Journal::read(path).empty());
  Journal::create(path, "first").append({"second", "", "fourth {}"});
  const std::string whole = get_file(path);
  const std::vector<std::string> lines = {"first", "second", "", "fourth {}"};
  CHECK(Journal::read(path) == lines);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    put_file(path, whole.substr(0, size));
    const std::vector<std::string> read = Journal::read(path);
    CHECK(read.size() == static_cast<std::size_t>(std::count(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size), '\n')));
    std::vector<std::string> again;
    Journal journal = Journal::reopen(path, again);
    CHECK(again == read);
    journal.append({"more"});
    again.push_back("more");
    CHECK(Journal::read(path) == again);
  }
}

TEST_CASE("a damaged line is refused by number, and a last one that is damaged counts as torn") {
  const Scratch dir;
  const std::string path = dir / "j";
  Journal::create(path, "first").append({"second"});
  std::string text = get_file(path);
  text[3] = text[3] == '0' ? '1' : '0';
  put_file(path, text);
  check_contains(error_of([&] { Journal::read(path); }), "line 1 is damaged");
  put_file(path, text.substr(0, text.find('\n') + 1));
  CHECK(Journal::read(path).empty());
}

TEST_CASE("the first line of a journal is read while its rest is torn") {
  const Scratch dir;
  const std::string path = dir / "j";
  CHECK(Journal::read_first_line(path).empty());
  Journal::create(path, "first").append({"second"});
  const std::string whole = get_file(path);
  const std::size_t end = whole.find('\n');
  for (std::size_t size = 0; size <= whole.size(); ++size) {
    put_file(path, whole.substr(0, size) + std::string(size > end ? 5 : 0, '\0') + (size > end ? "\n" : ""));
    CHECK(Journal::read_first_line(path) == (size > end ? "first" : ""));
  }
  put_file(path, "x" + whole.substr(1));
  CHECK(Journal::read_first_line(path).empty());
}

TEST_CASE("one process holds a journal at a time") {
  const Scratch dir;
  const std::string path = dir / "j";
  {
    const Journal held = Journal::create(path, "first");
    std::vector<std::string> lines;
    check_contains(error_of([&] { Journal::reopen(path, lines); }), "another process is at work there");
    check_contains(error_of([&] { Journal::create(path, "x"); }), "another process");
    CHECK(Journal::read(path) == std::vector<std::string>{"first"});
  }
  Journal::create(path, "x").remove();
  CHECK_FALSE(fs::exists(path));
  CHECK(error_of([&] { Journal::create(dir / "none/j", "x"); }) != "no error");
}

TEST_CASE("a staged file has its size at once and its name at the end") {
  const Scratch dir;
  const std::string path = dir / "a";
  CHECK_FALSE(StagedFile::find(path).has_value());
  CHECK(error_of([&] { StagedFile::open(path); }) != "no error");
  StagedFile::create(path, 10);
  CHECK(StagedFile::find(path) == 10);
  {
    StagedFile file = StagedFile::open(path);
    std::thread other([&] { file.write(5, bytes_of("fghij")); });
    file.write(0, bytes_of("abcde"));
    other.join();
    file.sync();
  }
  CHECK_FALSE(fs::exists(path));
  CHECK(StagedFile::open_for_reading(path).size() == 10);
  StagedFile::publish(path, false);
  CHECK(get_file(path) == "abcdefghij");
  CHECK(dir.count() == 1);
  StagedFile::publish(path, false);  // done already
  CHECK(StagedFile::open_for_reading(path).size() == 10);

  StagedFile::create(path, 3);
  check_contains(error_of([&] { StagedFile::publish(path, false); }), "has appeared");
  CHECK(get_file(path) == "abcdefghij");
  StagedFile::publish(path, true);
  CHECK(get_file(path) == std::string(3, '\0'));
  CHECK(error_of([&] { StagedFile::publish(dir / "none", true); }) != "no error");
  const FileSizeLimit limit(4096);
  check_contains(error_of([&] { StagedFile::create(path, 8192); }), "there is no room");
}
