#include "lib/io/kv_dump.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <system_error>

#include "lib/error.h"

namespace tq {
namespace {

constexpr std::int64_t kMinHeadDim = 8;
constexpr std::int64_t kMaxHeadDim = 1024;

enum class Role { kKey, kValue, kQuery };

struct RoleName {
  Role role;
  std::string_view letter;
  std::string_view word;
};

constexpr RoleName kRoles[] = {
    {Role::kKey, "k", "key"}, {Role::kValue, "v", "value"}, {Role::kQuery, "q", "query"}};

struct Place {
  Role role;
  int layer;
};

// The tensors of a layer before it is known whether they belong together.
using FoundLayer = std::array<std::optional<KvTensor>, std::size(kRoles)>;

// The whole of `text` as a number; for integers without sign or leading zeros, so that a layer has
// one spelling.
template <typename T>
std::optional<T> parse_whole(std::string_view text) {
  if (text.empty() ||
      (std::is_integral_v<T> && (text[0] == '-' || (text[0] == '0' && text.size() > 1)))) {
    return std::nullopt;
  }
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<Place> parse_kv_name(std::string_view name) {
  constexpr std::string_view kLayers = "layers.";
  const bool is_long = name.starts_with(kLayers);
  if (is_long) name.remove_prefix(kLayers.size());
  const std::size_t dot = name.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view before = name.substr(0, dot);
  const std::string_view after = name.substr(dot + 1);
  const std::optional<int> layer = parse_whole<int>(is_long ? before : after);
  for (const RoleName& row : kRoles) {
    if (layer && (is_long ? after == row.word : before == row.letter))
      return Place{row.role, *layer};
  }
  return std::nullopt;
}

[[noreturn]] void fail(const std::string& where, const TensorInfo& tensor,
                       const std::string& what) {
  throw Error(fmt::format("{}: tensor {} at byte offset {}: {}", where, quote_name(tensor.name),
                          tensor.offset, what));
}

KvTensor check_tensor(const TensorInfo& info, const std::string& where) {
  if (info.dtype != DType::kF32 && info.dtype != DType::kF16 && info.dtype != DType::kBf16) {
    fail(where, info,
         fmt::format("{} elements cannot be used; store F32, F16 or BF16", name_of(info.dtype)));
  }
  const std::vector<std::int64_t>& shape = info.shape;
  const std::size_t rank = shape.size();
  if (rank != 3 && rank != 4) {
    fail(where, info,
         fmt::format("its shape has {} dimensions; store [heads, tokens, head_dim]", rank));
  }
  if (rank == 4 && shape[0] != 1) {
    fail(where, info,
         fmt::format("its shape is [{}], a batch of {}; store one sequence", fmt::join(shape, ", "),
                     shape[0]));
  }
  const std::int64_t heads = shape[rank - 3];
  const std::int64_t tokens = shape[rank - 2];
  const std::int64_t head_dim = shape[rank - 1];
  if (heads == 0 || tokens == 0) {
    fail(where, info,
         fmt::format("its shape is [{}], so it has no {}", fmt::join(shape, ", "),
                     heads == 0 ? "heads" : "tokens"));
  }
  if (head_dim < kMinHeadDim || head_dim > kMaxHeadDim) {
    fail(where, info,
         fmt::format("its head_dim is {}; tq works from {} to {}", head_dim, kMinHeadDim,
                     kMaxHeadDim));
  }
  return {info, heads, tokens, static_cast<int>(head_dim), rank == 4};
}

KvLayer join_layer(int index, FoundLayer& found, const std::string& where) {
  auto& [k, v, q] = found;
  if (!k || !v) {
    const KvTensor& present = k ? *k : v ? *v : *q;
    fail(where, present.info,
         fmt::format("layer {} has no {}; store both k.{} and v.{}", index, k ? "values" : "keys",
                     index, index));
  }
  if (v->heads != k->heads || v->tokens != k->tokens) {
    fail(where, v->info,
         fmt::format("it has {} heads and {} tokens, but {} has {} and {}", v->heads, v->tokens,
                     quote_name(k->info.name), k->heads, k->tokens));
  }
  if (q && q->heads % k->heads != 0) {
    fail(where, q->info,
         fmt::format("its {} heads are no multiple of the {} kv_heads", q->heads, k->heads));
  }
  if (q && q->head_dim != k->head_dim) {
    fail(where, q->info,
         fmt::format("its head_dim is {}, but that of the keys is {}", q->head_dim, k->head_dim));
  }
  if (q && q->tokens > k->tokens) {
    fail(where, q->info,
         fmt::format("it has {} tokens, more than the {} of the keys", q->tokens, k->tokens));
  }
  return {index, std::move(*k), std::move(*v), std::move(q)};
}

double parse_positive(const std::string& key, const std::string& value, const std::string& where) {
  const std::optional<double> number = parse_whole<double>(value);
  if (!number || !std::isfinite(*number) || *number <= 0) {
    throw Error(fmt::format("{}: metadata {} is {}; it must be a positive decimal number", where,
                            key, quote_name(value)));
  }
  return *number;
}

/// Which layer of the file a key such as "sliding_window.3" is about; nothing if none.
std::optional<int> parse_layer(std::string_view key, std::string_view stem,
                               const std::map<int, FoundLayer>& found) {
  const std::string_view rest = key.substr(stem.size());
  const std::optional<int> layer =
      rest.starts_with('.') ? parse_whole<int>(rest.substr(1)) : std::nullopt;
  return layer && found.contains(*layer) ? layer : std::nullopt;
}

std::vector<float> parse_sinks(const std::string& key, const std::string& value,
                               const std::map<int, FoundLayer>& found, int layer,
                               const std::string& where) {
  std::vector<float> sinks;
  const std::string_view text = value;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t space = std::min(text.find(' ', at), text.size());
    const std::optional<float> number = parse_whole<float>(text.substr(at, space - at));
    if (!number || !std::isfinite(*number)) {
      throw Error(fmt::format("{}: metadata {}: number {} is none; write finite decimal numbers with single spaces", where,
                              quote_name(key), sinks.size()));
    }
    sinks.push_back(*number);
    at = space + 1;
  }
  const std::optional<KvTensor>& q = found.at(layer)[static_cast<std::size_t>(Role::kQuery)];
  if (q && static_cast<std::int64_t>(sinks.size()) != q->heads) {
    throw Error(fmt::format("{}: metadata {} has {} numbers, and the layer has {} query heads", where,
                            quote_name(key), sinks.size(), q->heads));
  }
  return sinks;
}

void read_metadata(const std::map<std::string, std::string>& metadata,
                   const std::map<int, FoundLayer>& found, const std::string& where,
                   KvLayout& layout) {
  constexpr std::string_view kScale = "attention_scale";
  constexpr std::string_view kSoftcap = "attention_softcap";
  constexpr std::string_view kWindow = "sliding_window";
  constexpr std::string_view kSinks = "attention_sinks";
  for (const auto& [key, value] : metadata) {
    if (key == kScale) {
      layout.attention_scale = parse_positive(key, value, where);
    } else if (key == kSoftcap) {
      layout.attention_softcap = parse_positive(key, value, where);
    } else if (key.starts_with(kWindow)) {
      const std::optional<int> layer = parse_layer(key, kWindow, found);
      const std::optional<std::int64_t> tokens = parse_whole<std::int64_t>(value);
      if (!layer || !tokens || *tokens == 0) {
        throw Error(
            fmt::format("{}: metadata {}: {} is wrong; write sliding_window.L with a layer L of "
                        "this file and a "
                        "positive number of tokens",
                        where, quote_name(key), quote_name(value)));
      }
      layout.sliding_windows.emplace(*layer, *tokens);
    } else if (key.starts_with(kSinks)) {
      const std::optional<int> layer = parse_layer(key, kSinks, found);
      if (!layer) {
        throw Error(fmt::format("{}: metadata {} is wrong; write attention_sinks.L with a layer L of this file", where,
                                quote_name(key)));
      }
      layout.sinks.emplace(*layer, parse_sinks(key, value, found, *layer, where));
    } else if (key.starts_with(kScale) || key.starts_with(kSoftcap)) {
      throw Error(
          fmt::format("{}: metadata {} is unknown; tq reads attention_scale, attention_softcap, "
                      "sliding_window.L and attention_sinks.L",
                      where, quote_name(key)));
    }
  }
}

}  // namespace

KvLayout classify_kv_tensors(const std::vector<TensorInfo>& tensors,
                             const std::map<std::string, std::string>& metadata,
                             const std::string& where) {
  std::map<int, FoundLayer> found;
  for (const TensorInfo& info : tensors) {
    const std::optional<Place> place = parse_kv_name(info.name);
    if (!place) {
      fail(where, info,
           "the name is none of a KV dump; it holds k.L, v.L, q.L or layers.L.key, layers.L.value, "
           "layers.L.query");
    }
    std::optional<KvTensor>& tensor = found[place->layer][static_cast<std::size_t>(place->role)];
    if (tensor) {
      fail(where, info,
           fmt::format("it is the same as {}; store it under one name",
                       quote_name(tensor->info.name)));
    }
    tensor = check_tensor(info, where);
  }
  if (found.empty())
    throw Error(
        fmt::format("{}: has no tensors; a KV dump holds k.L and v.L for each layer L", where));

  KvLayout layout;
  read_metadata(metadata, found, where, layout);
  for (auto& [index, layer] : found) layout.layers.push_back(join_layer(index, layer, where));
  return layout;
}

KvDump KvDump::open(const std::string& path) {
  SafetensorsFile file = SafetensorsFile::open(path);
  KvLayout layout = classify_kv_tensors(file.tensors(), file.metadata(), path);
  return KvDump(std::move(file), std::move(layout));
}

double KvDump::attention_scale(const KvLayer& layer) const {
  return layout_.attention_scale.value_or(1.0 / std::sqrt(static_cast<double>(layer.k.head_dim)));
}

std::vector<float> KvDump::sinks(const KvLayer& layer) const {
  const auto found = layout_.sinks.find(layer.index);
  return found == layout_.sinks.end() ? std::vector<float>() : found->second;
}

std::optional<std::int64_t> KvDump::sliding_window(const KvLayer& layer) const {
  const auto found = layout_.sliding_windows.find(layer.index);
  if (found == layout_.sliding_windows.end()) return std::nullopt;
  return found->second;
}

}  // namespace tq
