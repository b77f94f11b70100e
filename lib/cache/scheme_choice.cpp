#include "lib/cache/scheme_choice.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "lib/cache/scheme_words.h"
#include "lib/error.h"

namespace tq {
namespace {

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

}  // namespace

SchemeChoice parse_scheme_choice(const std::string& name) {
  const std::vector<std::string_view> known = foreign_cache_names();
  if (std::find(known.begin(), known.end(), name) != known.end()) return {name, std::nullopt};
  KvSchemeOptions options;
  std::string_view rest = name;
  const std::size_t end = std::min(rest.find('+'), rest.size());
  if (!read_bits(rest.substr(0, end), options) || !is_width(options.k_bits) || !is_width(options.v_bits)) {
    refuse_scheme(name, fmt::format("is neither kAvB or tqN with 1 to 8 bits (or 16), as in k4v3, nor one of {}", fmt::join(known, ", ")));
  }
  rest.remove_prefix(end);
  if (!rest.empty()) read_scheme_words(rest.substr(1), name, options);
  try {
    options.check();
  } catch (const UsageError& error) {
    refuse_scheme(name, error.what());
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
  const auto make_own = [&](KvPart part, int dim, DType dtype) {
    return make_cache_method(codecs_->find_heads(part, shape.place, shape.kv_heads, dim, dtype), backend_, threads_);
  };
  return {make_own(KvPart::kKeys, shape.k_dim, shape.k_dtype), make_own(KvPart::kValues, shape.v_dim, shape.v_dtype)};
}

}  // namespace tq
