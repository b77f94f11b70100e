#include "lib/pack/weight_blocks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "lib/convert.h"
#include "lib/error.h"
#include "lib/hash.h"
#include "lib/io/kv_file.h"
#include "lib/io/write_point.h"
#include "lib/stopwatch.h"

namespace tq {
namespace {

std::int64_t element_bytes(const WeightItem& item) { return static_cast<std::int64_t>(size_of(item.source->info->dtype)); }

/// Elements of the source before a group: rows are not padded there.
std::int64_t first_element(const WeightItem& item, std::int64_t group) {
  return group / item.groups * item.in_dim() + group % item.groups * item.codec->scheme().dim;
}

/// What a block reads of the source's file.
struct ByteRange {
  std::uint64_t first;
  std::uint64_t count;
};

ByteRange source_range(const WeightItem& item, const WeightBlock& block) {
  const std::uint64_t tensor = item.source->info->offset;
  if (!item.is_quantized() || block.count == 0) {
    return {tensor + static_cast<std::uint64_t>(block.first), static_cast<std::uint64_t>(block.count)};
  }
  const std::int64_t group_size = item.codec->scheme().dim;
  const std::int64_t first = first_element(item, block.first);
  const std::int64_t last_group = block.first + block.count - 1;
  const std::int64_t in_last = std::min(group_size, item.in_dim() - last_group % item.groups * group_size);
  const std::int64_t count = first_element(item, last_group) + in_last - first;
  return {tensor + static_cast<std::uint64_t>(first * element_bytes(item)), static_cast<std::uint64_t>(count * element_bytes(item))};
}

const InputFile& source_file(const Checkpoint& source, const WeightItem& item) {
  return source.shards()[static_cast<std::size_t>(item.source->shard)].file();
}

void read_block(const Checkpoint& source, const WeightItem& item, const WeightBlock& block, AlignedVector<std::byte>& bytes) {
  const ByteRange range = source_range(item, block);
  bytes.resize(range.count);
  source_file(source, item).read(range.first, bytes);
}

void cut_quantized(const WeightItem& item, std::size_t index, std::vector<WeightBlock>& blocks) {
  const std::int64_t most = std::max<std::int64_t>(1, kBlockBytes / (item.codec->scheme().dim * element_bytes(item)));
  const std::int64_t run = most >= item.groups ? item.lines() : item.groups;  // blocks do not cross the end of a run
  const std::int64_t step = most >= item.groups ? most / item.groups * item.groups : most;
  for (std::int64_t start = 0; start < item.lines(); start += run) {
    for (std::int64_t first = start; first < start + run; first += step) {
      blocks.push_back({index, first, std::min(step, start + run - first), false});
    }
  }
}

void cut_item(const WeightItem& item, std::size_t index, std::vector<WeightBlock>& blocks) {
  const std::size_t before = blocks.size();
  const auto bytes = static_cast<std::int64_t>(item.source->info->bytes);
  if (item.is_quantized()) {
    cut_quantized(item, index, blocks);
  } else {
    for (std::int64_t first = 0; first < bytes; first += kBlockBytes) {
      blocks.push_back({index, first, std::min(kBlockBytes, bytes - first), false});
    }
  }
  if (blocks.size() == before) blocks.push_back({index, 0, 0, false});  // an empty tensor is finished, too
  blocks.back().is_last = true;
}

}  // namespace

std::vector<WeightBlock> cut_into_blocks(const WeightPlan& plan, const std::vector<bool>& wanted) {
  std::vector<WeightBlock> blocks;
  for (std::size_t i = 0; i < plan.items.size(); ++i) {
    if (wanted[i]) cut_item(plan.items[i], i, blocks);
  }
  return blocks;
}

SourceHash::SourceHash() { XXH64_reset(&state_, 0); }

void SourceHash::add(std::uint64_t block_hash) {
  std::uint8_t bytes[8];
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<std::uint8_t>(block_hash >> (8 * i));
  XXH64_update(&state_, bytes, sizeof(bytes));
}

std::string SourceHash::result() const { return format_hash(XXH64_digest(&state_)); }

std::string hash_source(const Checkpoint& source, const WeightPlan& plan, std::size_t item) {
  std::vector<WeightBlock> blocks;
  cut_item(plan.items[item], item, blocks);
  SourceHash hash;
  AlignedVector<std::byte> bytes;
  for (const WeightBlock& block : blocks) {
    read_block(source, plan.items[item], block, bytes);
    hash.add(hash_bytes(bytes));
  }
  return hash.result();
}

StagedFile& ShardFiles::open(int shard) {
  const std::lock_guard lock(mutex_);
  const auto found = files_.find(shard);
  if (found != files_.end()) return found->second;
  const std::filesystem::path path = std::filesystem::path(dir_) / plan_.shards[static_cast<std::size_t>(shard)].name;
  return files_.emplace(shard, StagedFile::open(path.string())).first->second;
}

void ShardFiles::close_before(int shard) {
  const std::lock_guard lock(mutex_);
  files_.erase(files_.begin(), files_.lower_bound(shard));
}

BlockWorker::BlockWorker(const Checkpoint& source, const WeightPlan& plan, const Backend& backend, ShardFiles& files, bool check_all)
    : source_(source), plan_(plan), backend_(backend), files_(files), check_all_(check_all) {
  for (const WeightItem& item : plan.items) {
    if (item.is_quantized() && item.codec->effort() > 0) padded_.try_emplace(item.bits(), *item.codec);
  }
}

void BlockWorker::run(const WeightBlock& block, BlockBuffers& b) const {
  const WeightItem& item = plan_.items[block.item];
  b.check.clear();
  b.losses = F16Losses();
  b.data_written = b.norms_written = {};
  b.seconds = PackSeconds();
  const Stopwatch watch;
  read_block(source_, item, block, b.source);
  b.seconds.reading = watch.seconds();
  b.source_bytes = b.source.size();
  b.source_hash = hash_bytes(b.source);
  if (block.count > 0) {
    item.is_quantized() ? quantize(item, block, b) : keep(item, block, b);
    pass_write_point("block-written");
  }
  b.seconds.processors = watch.seconds() - b.seconds.reading - b.seconds.writing;
}

void BlockWorker::expect(const WeightBlock& block) const {
  const WeightItem& item = plan_.items[block.item];
  const ByteRange range = source_range(item, block);
  source_file(source_, item).expect(range.first, range.count);
}

void BlockWorker::write(const WeightPlace& place, std::uint64_t offset, std::span<const std::byte> data, BlockBuffers& b) const {
  const Stopwatch watch;
  files_.open(place.shard).write(place.offset + offset, data);
  b.seconds.writing += watch.seconds();
}

/// The groups of a block as the codec wants them: each of group_size values, the last one of a row padded with zeros.
const std::byte* BlockWorker::pad_groups(const WeightItem& item, const WeightBlock& block, BlockBuffers& b) const {
  const std::int64_t group_size = item.codec->scheme().dim;
  const std::int64_t bytes = element_bytes(item);
  if (item.in_dim() % group_size == 0) return b.source.data();
  b.padded.resize(static_cast<std::size_t>(block.count * group_size * bytes));
  const std::byte* from = b.source.data();
  for (std::int64_t group = 0; group < block.count;) {
    const std::int64_t in_row = (block.first + group) % item.groups;
    const std::int64_t count = std::min(item.groups - in_row, block.count - group);  // groups up to the end of the row
    const std::int64_t values = std::min(count * group_size, item.in_dim() - in_row * group_size);
    std::byte* to = b.padded.data() + group * group_size * bytes;
    std::memcpy(to, from, static_cast<std::size_t>(values * bytes));
    std::memset(to + values * bytes, 0, static_cast<std::size_t>((count * group_size - values) * bytes));
    from += values * bytes;
    group += count;
  }
  return b.padded.data();
}

void BlockWorker::quantize(const WeightItem& item, const WeightBlock& block, BlockBuffers& b) const {
  const std::byte* groups = pad_groups(item, block, b);
  const Scheme& scheme = item.codec->scheme();
  b.codes.resize(static_cast<std::size_t>(block.count * scheme.code_bytes()));
  b.norms.resize(static_cast<std::size_t>(block.count));
  const std::int64_t refused =
      backend_.encode(*item.codec, item.source->info->dtype, groups, block.count, b.codes.data(), b.norms.data());
  if (refused >= 0) refuse_group(item, block.first + refused, groups + refused * scheme.dim * element_bytes(item));
  settle_padded(item, block, groups, b);
  const auto first = static_cast<std::uint64_t>(block.first);
  b.data_written = std::as_bytes(std::span(b.codes));
  b.norms_written = std::as_bytes(std::span(b.norms));
  write(item.data, first * static_cast<std::uint64_t>(scheme.code_bytes()), b.data_written, b);
  write(item.norms, first * sizeof(float), b.norms_written, b);
  b.check.check(backend_, item, block, check_all_ ? 1 : checked_share(item), groups, b.codes.data(), b.norms.data());
}

/// The last groups of rows that are no multiple of the group size, together.
void BlockWorker::settle_padded(const WeightItem& item, const WeightBlock& block, const std::byte* groups, BlockBuffers& b) const {
  const std::int64_t values = item.in_dim() % item.codec->scheme().dim;
  if (item.codec->effort() == 0 || values == 0) return;
  const auto code_bytes = static_cast<std::size_t>(item.codec->scheme().code_bytes());
  const auto group_bytes = static_cast<std::size_t>(item.codec->scheme().dim * element_bytes(item));
  std::vector<std::size_t> last;
  for (std::int64_t group = 0; group < block.count; ++group) {
    if ((block.first + group) % item.groups == item.groups - 1) last.push_back(static_cast<std::size_t>(group));
  }
  std::vector<std::byte> rows(last.size() * group_bytes);
  std::vector<std::uint8_t> codes(last.size() * code_bytes);
  std::vector<float> norms(last.size());
  for (std::size_t i = 0; i < last.size(); ++i) {
    std::memcpy(rows.data() + i * group_bytes, groups + last[i] * group_bytes, group_bytes);
    std::memcpy(codes.data() + i * code_bytes, b.codes.data() + last[i] * code_bytes, code_bytes);
    norms[i] = b.norms[last[i]];
  }
  padded_.at(item.bits()).settle(backend_, item.source->info->dtype, rows.data(), static_cast<std::int64_t>(last.size()), values,
                                 codes.data(), norms.data());
  for (std::size_t i = 0; i < last.size(); ++i) {
    std::memcpy(b.codes.data() + last[i] * code_bytes, codes.data() + i * code_bytes, code_bytes);
    b.norms[last[i]] = norms[i];
  }
}

void BlockWorker::keep(const WeightItem& item, const WeightBlock& block, BlockBuffers& b) const {
  b.data_written = b.source;
  if (item.stored != item.source->info->dtype) cast_to_f16(item, block, b);
  const auto first = static_cast<std::uint64_t>(block.first / element_bytes(item));
  write(item.data, first * size_of(item.stored), b.data_written, b);
}

void BlockWorker::cast_to_f16(const WeightItem& item, const WeightBlock& block, BlockBuffers& b) const {
  const std::int64_t count = block.count / element_bytes(item);
  b.values.resize(static_cast<std::size_t>(count));
  b.stored.resize(static_cast<std::size_t>(count));
  convert_to_float(item.source->info->dtype, b.source.data(), count, b.values.data());
  constexpr float kBeyondF16 = 65520;  // what rounds to infinity
  const auto beyond = std::find_if(b.values.begin(), b.values.end(),
                                   [](float x) { return std::isfinite(x) && std::fabs(x) >= kBeyondF16; });
  if (beyond != b.values.end()) {
    refuse(item, block.first / element_bytes(item) + (beyond - b.values.begin()),
           fmt::format("is {}, and F16 ends at 65504; use --keep-dtype same", *beyond));
  }
  b.kept.resize(static_cast<std::size_t>(count) * size_of(DType::kF16));
  convert_from_float(b.values.data(), count, DType::kF16, b.kept.data());
  convert_to_float(DType::kF16, b.kept.data(), count, b.stored.data());
  b.losses.add(b.values, b.stored);
  b.data_written = b.kept;
}

void BlockWorker::refuse_group(const WeightItem& item, std::int64_t group, const std::byte* values) const {
  const int group_size = item.codec->scheme().dim;
  std::vector<float> x(static_cast<std::size_t>(group_size));
  convert_to_float(item.source->info->dtype, values, group_size, x.data());
  const auto bad = std::find_if(x.begin(), x.end(), [](float value) { return !std::isfinite(value); });
  if (bad == x.end()) {
    refuse(item, first_element(item, group), fmt::format("begins a group of {} values whose norm F32 cannot hold; keep the tensor with --skip", group_size));
  }
  refuse(item, first_element(item, group) + (bad - x.begin()),
         fmt::format("is {}, and only finite values can be quantized; get the checkpoint again, or keep the tensor with --skip",
                     std::isnan(*bad) ? "NaN" : "infinite"));
}

void BlockWorker::refuse(const WeightItem& item, std::int64_t element, const std::string& what) const {
  std::vector<std::int64_t> index;
  const std::vector<std::int64_t>& shape = item.source->info->shape;
  for (auto dim = shape.rbegin(); dim != shape.rend(); ++dim) {
    index.insert(index.begin(), element % *dim);
    element /= *dim;
  }
  throw RefusedValue(
      fmt::format("{}: tensor {}: the value at [{}] {}",
                          source_file(source_, item).path(), quote_name(item.name()), fmt::join(index, ", "), what));
}

}  // namespace tq
