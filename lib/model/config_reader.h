// config.json, key by key: typed, with ranges, and with messages that name file and key. A key that
// is null counts as absent for what has no default, and as "none" for what is optional.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/model/families.h"

namespace tq {

class ConfigReader {
 public:
  /// `json` is an object; `place` ("" or "rope_parameters.") begins the keys in messages.
  ConfigReader(const nlohmann::json& json, std::string path, std::string place = {});

  const std::string& path() const { return path_; }
  bool has(std::string_view key) const;  ///< there and not null
  bool names(std::string_view key) const;  ///< there, null or not
  const nlohmann::json* find(std::string_view key) const;  ///< nullptr if absent or null

  /// An integer from 1 to `most`. Error if absent.
  std::int64_t size(std::string_view key, std::int64_t most) const;
  /// The first of the keys that is there.
  std::int64_t size_of_any(const std::vector<std::string_view>& keys, std::int64_t most) const;
  /// The same; `missing` if absent.
  std::int64_t size_or(std::string_view key, std::int64_t most, std::int64_t missing) const;
  /// The same from 0 on.
  std::int64_t count_or(std::string_view key, std::int64_t most, std::int64_t missing) const;
  /// A finite number; nothing if absent.
  std::optional<double> number(std::string_view key) const;
  /// The same, which must be above 0.
  std::optional<double> positive(std::string_view key) const;
  std::optional<bool> flag(std::string_view key) const;
  bool flag(const Flag& flag) const;  ///< null is false, as Python reads None
  std::optional<std::string> text(std::string_view key) const;
  std::vector<double> numbers(std::string_view key) const;         ///< empty if absent
  std::vector<std::int64_t> integers(std::string_view key) const;  ///< empty if absent
  std::vector<std::string> texts(std::string_view key) const;      ///< empty if absent

  /// Throws Error "PATH: KEY: what".
  [[noreturn]] void fail(std::string_view key, const std::string& what) const;

 private:
  const nlohmann::json& json_;
  std::string path_;
  std::string place_;
};

}  // namespace tq
