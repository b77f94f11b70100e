// A plain text table: columns as wide as their widest cell, numbers to the right.
#pragma once

#include <string>
#include <vector>

namespace tq::cli {

class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  /// As many cells as the header has.
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string format() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace tq::cli
