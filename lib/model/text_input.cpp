#include "lib/model/text_input.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>

#include "lib/error.h"
#include "lib/io/file.h"
#include "lib/io/safetensors_header.h"
#include "lib/model/tokenizer/stage.h"
#include "lib/model/tokenizer/unicode.h"

namespace tq {
namespace {

[[noreturn]] void refuse_size(const std::string& where) {
  throw Error(
      fmt::format("{}: has more than {} bytes; use a shorter text", where, text::kMostTextBytes));
}

std::string read_stdin() {
  std::string content;
  char buffer[1 << 16];
  for (;;) {
    const ssize_t got = ::read(STDIN_FILENO, buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Error(fmt::format("stdin: cannot be read: {}", describe_errno(errno)));
    if (got == 0) return content;
    content.append(buffer, static_cast<std::size_t>(got));
    if (content.size() > text::kMostTextBytes) refuse_size("stdin");
  }
}

std::string read_whole(const std::string& path) {
  if (path == "-") return read_stdin();
  const InputFile file = InputFile::open(path);
  if (file.size() > text::kMostTextBytes) refuse_size(path);
  std::string content(file.size(), '\0');
  file.read(0, std::as_writable_bytes(std::span(content)));
  return content;
}

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

[[noreturn]] void refuse_id(const std::string& where, std::size_t index, std::string_view found) {
  throw Error(fmt::format("{}: token {} is {}, not an integer from 0 to 2^31-1", where, index,
                          quote_name(found)));
}

std::vector<std::int32_t> parse_array(const std::string& content, const std::string& where) {
  const nlohmann::json json = nlohmann::json::parse(content, nullptr, false);
  if (!json.is_array()) throw Error(fmt::format("{}: begins like a JSON array and is none", where));
  std::vector<std::int32_t> ids;
  for (const nlohmann::json& id : json) {
    if (!id.is_number_unsigned() ||
        id.get<std::uint64_t>() > std::numeric_limits<std::int32_t>::max()) {
      refuse_id(where, ids.size(),
                id.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    }
    ids.push_back(id.get<std::int32_t>());
  }
  return ids;
}

std::vector<std::int32_t> parse_list(std::string_view content, const std::string& where) {
  std::vector<std::int32_t> ids;
  for (std::size_t at = 0; at < content.size();) {
    if (is_space(content[at])) {
      ++at;
      continue;
    }
    std::size_t end = at;
    while (end < content.size() && !is_space(content[end])) ++end;
    std::int32_t id = -1;
    const auto [stop, error] = std::from_chars(content.data() + at, content.data() + end, id);
    if (error != std::errc() || stop != content.data() + end || id < 0)
      refuse_id(where, ids.size(), content.substr(at, end - at));
    ids.push_back(id);
    at = end;
  }
  return ids;
}

}  // namespace

std::string read_text(const std::string& path) {
  std::string content = read_whole(path);
  text::require_utf8(content, path == "-" ? "stdin" : path);
  return content;
}

std::vector<std::int32_t> read_token_ids(const std::string& path) {
  const std::string where = path == "-" ? "stdin" : path;
  const std::string content = read_whole(path);
  const std::size_t first = content.find_first_not_of(" \n\t\r");
  const bool array = first != std::string::npos && content[first] == '[';
  std::vector<std::int32_t> ids = array ? parse_array(content, where) : parse_list(content, where);
  if (ids.empty()) throw Error(fmt::format("{}: has no token ids", where));
  return ids;
}

}  // namespace tq
