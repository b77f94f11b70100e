// What a long run has finished, on disk: lines of text that are appended, each with its hash, so that a line is either whole
// or not there. The first line says what the run is. One process at a time holds a journal.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lib/io/output_file.h"

namespace tq {

/// Move-only; the lock goes with the object.
class Journal {
 public:
  /// Creates the file, or empties the one that is there, and writes the first line. Error: another process holds it, or it
  /// cannot be written.
  static Journal create(const std::string& path, const std::string& first_line);

  /// Opens a journal to go on with it; a last line that is not whole is cut off. Error as create() and read().
  static Journal reopen(const std::string& path, std::vector<std::string>& lines);

  /// The whole lines; empty if there is no such file, or not even a first line. Error, with the line's number, for a
  /// line other than the last that does not have its hash.
  static std::vector<std::string> read(const std::string& path);

  /// The first line, of a journal that another process may be writing; empty if there is none, or it is not whole.
  static std::string read_first_line(const std::string& path);

  const std::string& path() const { return path_; }

  /// Appends lines (without line breaks in them); when it returns they are on disk.
  void append(const std::vector<std::string>& lines);

  /// Deletes the file; what it recorded is no longer needed.
  void remove();

 private:
  static Journal open(const std::string& path, int flags);
  Journal(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  std::string path_;
  FileDescriptor fd_;
};

}  // namespace tq
