#include "lib/cache/scheme_choice.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "lib/cache/scheme_words.h"
#include "lib/error.h"

namespace tq {
namespace {

[[noreturn]] void refuse(const std::string& name, const std::string& what) {
  throw UsageError(fmt::format("scheme '{}': {}", name, what));
}

/// A whole number from the front of `text`, which is left behind it.
std::optional<int> take_number(std::string_view& text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value < 0) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

bool is_width(int bits) { return (bits >= kMinBits && bits <= kMaxBits) || bits == kExactBits; }

/// "k4v3" or "tq4".
bool read_bits(std::string_view text, KvSchemeOptions& options) {
  const bool both = text.starts_with("tq");
  if (!both && !text.starts_with("k")) return false;
  text.remove_prefix(both ? 2 : 1);
  const std::optional<int> k = take_number(text);
  if (!k) return false;
  options.k_bits = options.v_bits = *k;
  if (both) return text.empty();
  if (!text.starts_with("v")) return false;
  text.remove_prefix(1);
  const std::optional<int> v = take_number(text);
  if (!v || !text.empty()) return false;
  options.v_bits = *v;
  return true;
}

/// One codec, or one a head where they differ.
std::shared_ptr<const CacheMethod> make_own(KvCodecs& codecs, KvPart part, const CachedLayer& shape, const Backend& backend,
                                            int threads) {
  const bool keys = part == KvPart::kKeys;
  const int dim = keys ? shape.k_dim : shape.v_dim;
  const DType dtype = keys ? shape.k_dtype : shape.v_dtype;
  const std::int64_t heads = codecs.options().differs_by_head(part, shape.place) ? shape.kv_heads : 1;
  std::vector<std::shared_ptr<const CacheCodec>> of_heads;
  for (std::int64_t head = 0; head < heads; ++head) of_heads.push_back(codecs.find(part, shape.place, head, dim, dtype));
  return make_cache_method(std::move(of_heads), backend, threads);
}

}  // namespace

SchemeChoice parse_scheme_choice(const std::string& name) {
  const std::vector<std::string_view> known = foreign_cache_names();
  if (std::find(known.begin(), known.end(), name) != known.end()) return {name, std::nullopt};
  KvSchemeOptions options;
  std::string_view rest = name;
  const std::size_t end = std::min(rest.find('+'), rest.size());
  if (!read_bits(rest.substr(0, end), options) || !is_width(options.k_bits) || !is_width(options.v_bits)) {
    refuse(name, fmt::format("is neither kAvB or tqN with 1 to 8 bits (or 16), as in k4v3, nor one of {}", fmt::join(known, ", ")));
  }
  rest.remove_prefix(end);
  if (!rest.empty()) read_scheme_words(rest.substr(1), name, options);
  try {
    options.check();
  } catch (const UsageError& error) {
    refuse(name, error.what());
  }
  return {name, options};
}

CacheMaker::CacheMaker(const SchemeChoice& choice, const Backend& backend, int threads)
    : name_(choice.name), backend_(backend), threads_(threads) {
  if (choice.options) codecs_.emplace(*choice.options);
}

LayerCache CacheMaker::make(const CachedLayer& shape) {
  if (!codecs_) {
    CachePair pair = make_foreign_cache(name_, shape.k_dim, shape.v_dim);
    return {std::move(pair.k), std::move(pair.v)};
  }
  return {make_own(*codecs_, KvPart::kKeys, shape, backend_, threads_), make_own(*codecs_, KvPart::kValues, shape, backend_, threads_)};
}

}  // namespace tq
