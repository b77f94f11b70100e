#include "lib/model/config_reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "lib/error.h"

namespace tq {
namespace {

using Json = nlohmann::json;

/// Some configurations write whole numbers as 32.0.
std::optional<std::int64_t> as_integer(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<std::uint64_t>();
    if (number > std::uint64_t{1} << 62) return std::nullopt;
    return static_cast<std::int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<std::int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const auto number = value.get<double>();
  if (!(std::fabs(number) < 1e15) || number != std::floor(number)) return std::nullopt;
  return static_cast<std::int64_t>(number);
}

}  // namespace

ConfigReader::ConfigReader(const Json& json, std::string path, std::string place)
    : json_(json), path_(std::move(path)), place_(std::move(place)) {}

void ConfigReader::fail(std::string_view key, const std::string& what) const {
  throw Error(fmt::format("{}: {}{}: {}", path_, place_, key, what));
}

const Json* ConfigReader::find(std::string_view key) const {
  const auto found = json_.find(key);
  return found == json_.end() || found->is_null() ? nullptr : &*found;
}

bool ConfigReader::names(std::string_view key) const { return json_.contains(key); }

bool ConfigReader::has(std::string_view key) const { return find(key) != nullptr; }

std::int64_t ConfigReader::size(std::string_view key, std::int64_t most) const {
  const Json* value = find(key);
  if (value == nullptr) fail(key, "is missing, and the model cannot be run without it");
  const std::optional<std::int64_t> number = as_integer(*value);
  if (!number || *number < 1 || *number > most) {
    fail(key, fmt::format("must be an integer from 1 to {}", most));
  }
  return *number;
}

std::int64_t ConfigReader::size_of_any(const std::vector<std::string_view>& keys,
                                       std::int64_t most) const {
  for (const std::string_view key : keys) {
    if (has(key)) return size(key, most);
  }
  return size(keys.front(), most);
}

std::int64_t ConfigReader::size_or(std::string_view key, std::int64_t most,
                                   std::int64_t missing) const {
  return has(key) ? size(key, most) : missing;
}

std::int64_t ConfigReader::count_or(std::string_view key, std::int64_t most, std::int64_t missing) const {
  const Json* value = find(key);
  if (value == nullptr) return missing;
  const std::optional<std::int64_t> number = as_integer(*value);
  if (!number || *number < 0 || *number > most) fail(key, fmt::format("must be an integer from 0 to {}", most));
  return *number;
}

std::optional<double> ConfigReader::number(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number() || !std::isfinite(value->get<double>())) fail(key, "must be a number");
  return value->get<double>();
}

std::optional<double> ConfigReader::positive(std::string_view key) const {
  const std::optional<double> value = number(key);
  if (value && !(*value > 0)) fail(key, "must be above 0");
  return value;
}

std::optional<bool> ConfigReader::flag(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) fail(key, "must be true or false");
  return value->get<bool>();
}

bool ConfigReader::flag(const Flag& flag) const {
  if (flag.key.empty() || !names(flag.key)) return flag.value;
  return this->flag(flag.key).value_or(false);
}

std::optional<std::string> ConfigReader::text(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) fail(key, "must be a string");
  return value->get<std::string>();
}

std::vector<double> ConfigReader::numbers(std::string_view key) const {
  const Json* list = find(key);
  std::vector<double> out;
  if (list == nullptr) return out;
  if (!list->is_array()) fail(key, "must be a list of numbers");
  for (const Json& value : *list) {
    if (!value.is_number() || !std::isfinite(value.get<double>())) fail(key, "must be a list of numbers");
    out.push_back(value.get<double>());
  }
  return out;
}

std::vector<std::int64_t> ConfigReader::integers(std::string_view key) const {
  const Json* list = find(key);
  std::vector<std::int64_t> out;
  if (list == nullptr) return out;
  if (!list->is_array()) fail(key, "must be a list of integers");
  for (const Json& value : *list) {
    const std::optional<std::int64_t> number = as_integer(value);
    if (!number) fail(key, "must be a list of integers");
    out.push_back(*number);
  }
  return out;
}

std::vector<std::string> ConfigReader::texts(std::string_view key) const {
  const Json* list = find(key);
  std::vector<std::string> out;
  if (list == nullptr) return out;
  if (!list->is_array()) fail(key, "must be a list of strings");
  for (const Json& value : *list) {
    if (!value.is_string()) fail(key, "must be a list of strings");
    out.push_back(value.get<std::string>());
  }
  return out;
}

}  // namespace tq
