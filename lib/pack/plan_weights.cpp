#include "lib/pack/plan_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <map>

#include "lib/error.h"
#include "lib/math/scale_search.h"
#include "lib/pack/name_pattern.h"

namespace tq {
namespace {

/// A tensor that is or feeds one of these is never quantized. Substrings, as in the published converter.
constexpr std::array<std::string_view, 4> kKeptWords = {"lm_head", "embed", "norm", "head"};
constexpr std::int64_t kLeastSide = 128;  // of the last two dimensions one must reach it, whatever the group size

/// The linear layer that chooses experts: "gate" or "router" of a block, with or without a name below it.
constexpr const char* kRouterPattern = R"((^|\.)(router|gate|shared_expert_gate)(\.[A-Za-z0-9_]+)?\.weight$)";

std::string to_lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

bool is_quantizable(DType dtype) { return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBf16; }

bool is_float(DType dtype) {
  return is_quantizable(dtype) || dtype == DType::kF64 || dtype == DType::kF8E4M3 || dtype == DType::kF8E5M2;
}

/// A tensor of an output file, before its offset is known.
struct Pending {
  TensorSpec spec;
  WeightPlace* place;
};

class WeightPlanner {
 public:
  WeightPlanner(const Checkpoint& source, const WeightOptions& options) : source_(source) {
    plan_.options = options;
    for (const std::string& pattern : options.skip) skip_.emplace_back(pattern);
    if (options.skip_router) skip_.emplace_back(kRouterPattern);
    if (options.sensitive_bits != 0) sensitive_.sensitive_patterns = sensitive_patterns_of(options);
    sensitive_.bits = options.bits;
    sensitive_.sensitive_bits = options.sensitive_bits;
  }

  WeightPlan make() {
    choose_items();
    for (WeightItem& item : plan_.items) {
      if (!open_.empty() && item.part != part_) flush();
      part_ = item.part;
      if (item.is_quantized()) {
        const int line_bytes = item.codec->scheme().code_bytes();
        add(item, kPackedSuffix, DType::kU8, {item.lines(), line_bytes}, item.data);
        add(item, kNormsSuffix, DType::kF32, {item.rows, item.groups}, item.norms);
      } else {
        add(item, "", item.stored, item.source->info->shape, item.data);
      }
      plan_.input_bytes += item.source->info->bytes;
    }
    flush();
    // From here on every offset is fixed.
    name_shards();
    return std::move(plan_);
  }

 private:
  [[noreturn]] void fail(const Checkpoint::Entry& entry, const std::string& what) const {
    throw Error(fmt::format("{}: tensor {} {}", source_.shards()[static_cast<std::size_t>(entry.shard)].file().path(),
                            quote_name(entry.info->name), what));
  }

  void choose_items() {
    std::vector<const Checkpoint::Entry*> entries;
    for (const Checkpoint::Entry& entry : source_.tensors()) entries.push_back(&entry);
    std::sort(entries.begin(), entries.end(), [](const Checkpoint::Entry* a, const Checkpoint::Entry* b) {
      return a->shard != b->shard ? a->shard < b->shard : a->info->name < b->info->name;
    });
    const auto shards = static_cast<std::int64_t>(source_.shards().size());
    for (const Checkpoint::Entry* entry : entries) {
      for (const std::string_view suffix : {kPackedSuffix, kNormsSuffix}) {
        if (!entry->info->name.ends_with(suffix)) continue;
        fail(*entry, fmt::format("has a name that ends in {}, as codes and norms of native TQ3 do: no reader could tell them apart; rename it in the source", suffix));
      }
      WeightItem item;
      item.source = entry;
      item.part = 1 + static_cast<int>(entry->shard * std::int64_t{plan_.options.parts} / shards);
      if (is_linear_weight(entry->info->name, entry->info->shape) && !is_skipped(entry->info->name)) {
        quantize(item);
      } else {
        keep(item);
      }
      plan_.items.push_back(std::move(item));
    }
  }

  bool is_skipped(const std::string& name) const {
    return std::any_of(skip_.begin(), skip_.end(), [&](const NamePattern& pattern) { return pattern.matches(name); });
  }

  void quantize(WeightItem& item) {
    const TensorInfo& info = *item.source->info;
    if (!is_quantizable(info.dtype)) {
      fail(*item.source, fmt::format("is {}, and tq quantizes F32, F16 and BF16; start from an unquantized checkpoint, or keep "
                                     "the tensor with --skip", name_of(info.dtype)));
    }
    const int bits = sensitive_.bits_of(info.name);
    std::shared_ptr<const Codec>& codec = codecs_[bits];
    if (codec == nullptr) {
      Scheme scheme = tq3_scheme(bits, plan_.options.group_size);
      if (plan_.options.effort > 0) scheme.norm = NormMode::kLeastSquares;
      codec = std::make_shared<const Codec>(Codec(scheme).with_effort(plan_.options.effort));
    }
    item.codec = codec;
    item.rows = 1;
    for (std::size_t i = 0; i + 1 < info.shape.size(); ++i) item.rows *= info.shape[i];
    item.groups = (info.shape.back() - 1) / plan_.options.group_size + 1;
  }

  void keep(WeightItem& item) {
    const DType dtype = item.source->info->dtype;
    item.stored = plan_.options.keep_f16 && is_float(dtype) ? DType::kF16 : dtype;
    if (item.stored != dtype && !is_quantizable(dtype)) {
      fail(*item.source, fmt::format("is {}, which tq does not turn into F16; use --keep-dtype same", name_of(dtype)));
    }
  }

  /// The published rule for a new file: when the next tensor would take the open one beyond the limit.
  void add(const WeightItem& item, std::string_view suffix, DType dtype, std::vector<std::int64_t> shape, WeightPlace& place) {
    TensorSpec spec{item.name() + std::string(suffix), dtype, std::move(shape)};
    const std::optional<std::uint64_t> bytes = tensor_bytes(dtype, spec.shape);
    if (!bytes || *bytes > (std::uint64_t{1} << 62) - plan_.tensor_bytes) fail(*item.source, "is too large");
    if (open_bytes_ + *bytes > plan_.options.max_shard_bytes && !open_.empty()) flush();
    plan_.weight_map.emplace_back(spec.name, static_cast<int>(plan_.shards.size()));
    open_.push_back({std::move(spec), &place});
    open_bytes_ += *bytes;
    plan_.tensor_bytes += *bytes;
  }

  /// Lays out the open file: wide types first, so that each tensor starts at a multiple of its element.
  void flush() {
    if (open_.empty()) return;
    std::sort(open_.begin(), open_.end(), [](const Pending& a, const Pending& b) {
      const auto rank = [](const Pending& p) { return std::pair(size_of(p.spec.dtype), p.spec.dtype); };
      return rank(a) != rank(b) ? rank(a) > rank(b) : a.spec.name < b.spec.name;
    });
    std::vector<TensorSpec> specs;
    for (const Pending& pending : open_) specs.push_back(pending.spec);
    const SafetensorsWriter layout(specs, {{"format", "pt"}, {"tool", "tq " TQ_VERSION}});
    for (std::size_t i = 0; i < open_.size(); ++i) {
      *open_[i].place = {static_cast<int>(plan_.shards.size()), layout.tensors()[i].offset};
    }
    const std::uint64_t length = layout.header_text().size();
    std::string header(sizeof(length), '\0');
    std::memcpy(header.data(), &length, sizeof(length));
    header += layout.header_text();
    plan_.shards.push_back({"", part_, std::move(header), layout.total_bytes()});
    plan_.shard_bytes += layout.total_bytes();
    open_.clear();
    open_bytes_ = 0;
  }

  void name_shards() {
    const std::size_t count = plan_.shards.size();
    for (std::size_t i = 0; i < count; ++i) {
      plan_.shards[i].name =
          count == 1 ? std::string(kWeightsName) : fmt::format("model-{:05d}-of-{:05d}.safetensors", i + 1, count);
    }
  }

  const Checkpoint& source_;
  WeightPlan plan_;
  std::vector<NamePattern> skip_;
  Tq3Config sensitive_;  // bits by name
  std::map<int, std::shared_ptr<const Codec>> codecs_;
  std::vector<Pending> open_;  // points into plan_.items, which no longer grows
  std::uint64_t open_bytes_ = 0;
  int part_ = 1;
};

bool is_tq3_bits(int bits) { return bits >= 2 && bits <= 4; }

}  // namespace

bool is_linear_weight(const std::string& name, const std::vector<std::int64_t>& shape) {
  const std::string lower = to_lower(name);
  const std::size_t dims = shape.size();
  const bool matrix = dims == 2 && name.ends_with(".weight");
  const bool experts = dims == 3 && contains(lower, "expert");
  if (!matrix && !experts) return false;
  if (std::any_of(kKeptWords.begin(), kKeptWords.end(), [&](std::string_view word) { return contains(lower, word); })) {
    return false;
  }
  return std::max(shape[dims - 1], shape[dims - 2]) >= kLeastSide && shape[dims - 1] > 0;
}

void check_weight_options(const WeightOptions& options) {
  if (!is_tq3_bits(options.bits) || (options.sensitive_bits != 0 && !is_tq3_bits(options.sensitive_bits))) {
    throw UsageError("native TQ3 has 2, 3 and 4 bits");
  }
  if (options.group_size != 64 && options.group_size != 128 && options.group_size != 256) {
    throw UsageError("--group-size is 64, 128 or 256");
  }
  if (options.sensitive_bits == 0 && !options.sensitive_patterns.empty()) {
    throw UsageError("--sensitive-pattern needs --sensitive-bits");
  }
  if (options.effort < 0 || options.effort > math::kMaxEffort) throw UsageError("--effort is 0 to 3");
  if (options.max_shard_bytes == 0) throw UsageError("--max-shard-size must be at least 1 byte");
  if (options.parts < 1) throw UsageError("--shard K/N: N must be at least 1");
  for (const std::string& pattern : options.skip) NamePattern{pattern};
}

std::vector<std::string> sensitive_patterns_of(const WeightOptions& options) {
  if (!options.sensitive_patterns.empty()) return options.sensitive_patterns;
  return {"o_proj", "down_proj"};
}

std::uint64_t WeightItem::data_bytes() const {
  if (!is_quantized()) return static_cast<std::uint64_t>(source->info->elements()) * size_of(stored);
  return static_cast<std::uint64_t>(lines()) * static_cast<std::uint64_t>(codec->scheme().code_bytes());
}

std::uint64_t WeightItem::norms_bytes() const {
  return is_quantized() ? static_cast<std::uint64_t>(lines()) * sizeof(float) : 0;
}

double WeightItem::bits_per_weight() const {
  const std::int64_t values = source->info->elements();
  return values == 0 ? 0 : 8.0 * static_cast<double>(bytes()) / static_cast<double>(values);
}

std::uint64_t WeightPlan::part_input_bytes(int part) const {
  std::uint64_t bytes = 0;
  for (const WeightItem& item : items) bytes += item.part == part ? item.source->info->bytes : 0;
  return bytes;
}

std::uint64_t WeightPlan::part_tensor_bytes(int part) const {
  std::uint64_t bytes = 0;
  for (const WeightItem& item : items) bytes += item.part == part ? item.bytes() : 0;
  return bytes;
}

WeightPlan plan_weights(const Checkpoint& source, const WeightOptions& options) {
  check_weight_options(options);
  if (Tq3Checkpoint::claims(source.dir())) {
    throw Error(fmt::format("{}: is a native TQ3 checkpoint already (it has {}); name the one that it was made from",
                            source.dir(), kTq3ConfigName));
  }
  if (source.tensors().empty()) throw Error(fmt::format("{}: has no tensors; get the checkpoint again", source.dir()));
  return WeightPlanner(source, options).make();
}

}  // namespace tq
