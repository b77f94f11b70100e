#include "cli/table.h"

#include <fmt/format.h>

#include <algorithm>

namespace tq::cli {

std::string Table::format() const {
  std::vector<std::size_t> widths(rows_.front().size(), 0);
  for (const std::vector<std::string>& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const std::vector<std::string>& row : rows_) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) line += fmt::format("{:>{}}{}", row[i], widths[i], i + 1 < row.size() ? "  " : "");
    text += line + "\n";
  }
  return text;
}

}  // namespace tq::cli
