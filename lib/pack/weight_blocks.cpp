#include "lib/pack/weight_blocks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "lib/convert.h"
#include "lib/error.h"
#include "lib/io/write_point.h"

namespace tq {
namespace {

std::int64_t element_bytes(const WeightItem& item) { return static_cast<std::int64_t>(size_of(item.source->info->dtype)); }

/// Elements of the source before a group: rows are not padded there.
std::int64_t first_element(const WeightItem& item, std::int64_t group) {
  return group / item.groups * item.in_dim() + group % item.groups * item.codec->scheme().dim;
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

}  // namespace

std::vector<WeightBlock> cut_into_blocks(const WeightPlan& plan, const std::vector<bool>& wanted) {
  std::vector<WeightBlock> blocks;
  for (std::size_t i = 0; i < plan.items.size(); ++i) {
    if (!wanted[i]) continue;
    const WeightItem& item = plan.items[i];
    const std::size_t before = blocks.size();
    const auto bytes = static_cast<std::int64_t>(item.source->info->bytes);
    if (item.is_quantized()) {
      cut_quantized(item, i, blocks);
    } else {
      for (std::int64_t first = 0; first < bytes; first += kBlockBytes) {
        blocks.push_back({i, first, std::min(kBlockBytes, bytes - first), false});
      }
    }
    if (blocks.size() == before) blocks.push_back({i, 0, 0, false});  // an empty tensor is finished, too
    blocks.back().is_last = true;
  }
  return blocks;
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

void BlockWorker::run(const WeightBlock& block, BlockBuffers& b) const {
  const WeightItem& item = plan_.items[block.item];
  b.check.clear();
  b.data_written = b.norms_written = {};
  b.source_bytes = 0;
  if (block.count == 0) return;
  item.is_quantized() ? quantize(item, block, b) : keep(item, block, b);
  pass_write_point("block-written");
}

/// The groups of a block as the codec wants them: each of group_size values, the last one of a row padded with zeros.
const std::byte* BlockWorker::read_groups(const WeightItem& item, const WeightBlock& block, BlockBuffers& b) const {
  const std::int64_t group_size = item.codec->scheme().dim;
  const std::int64_t bytes = element_bytes(item);
  const std::int64_t first = first_element(item, block.first);
  const std::int64_t last_group = block.first + block.count - 1;
  const std::int64_t in_last = std::min(group_size, item.in_dim() - last_group % item.groups * group_size);
  const std::int64_t end = first_element(item, last_group) + in_last;
  b.source_bytes = static_cast<std::uint64_t>((end - first) * bytes);
  b.source.resize(b.source_bytes);
  source_.read(*item.source, static_cast<std::uint64_t>(first * bytes), b.source);
  if (item.in_dim() % group_size == 0) return b.source.data();
  b.padded.assign(static_cast<std::size_t>(block.count * group_size * bytes), std::byte{0});
  const std::byte* from = b.source.data();
  for (std::int64_t group = 0; group < block.count;) {
    const std::int64_t in_row = (block.first + group) % item.groups;
    const std::int64_t count = std::min(item.groups - in_row, block.count - group);  // groups up to the end of the row
    const std::int64_t values = std::min(count * group_size, item.in_dim() - in_row * group_size);
    std::memcpy(b.padded.data() + group * group_size * bytes, from, static_cast<std::size_t>(values * bytes));
    from += values * bytes;
    group += count;
  }
  return b.padded.data();
}

void BlockWorker::quantize(const WeightItem& item, const WeightBlock& block, BlockBuffers& b) const {
  const std::byte* groups = read_groups(item, block, b);
  const Scheme& scheme = item.codec->scheme();
  b.codes.resize(static_cast<std::size_t>(block.count * scheme.code_bytes()));
  b.norms.resize(static_cast<std::size_t>(block.count));
  const std::int64_t refused =
      backend_.encode(*item.codec, item.source->info->dtype, groups, block.count, b.codes.data(), b.norms.data());
  if (refused >= 0) refuse_group(item, block.first + refused, groups + refused * scheme.dim * element_bytes(item));
  const auto first = static_cast<std::uint64_t>(block.first);
  b.data_written = std::as_bytes(std::span(b.codes));
  b.norms_written = std::as_bytes(std::span(b.norms));
  files_.open(item.data.shard).write(item.data.offset + first * static_cast<std::uint64_t>(scheme.code_bytes()), b.data_written);
  files_.open(item.norms.shard).write(item.norms.offset + first * sizeof(float), b.norms_written);
  b.check.check(backend_, item, block, groups, b.codes.data(), b.norms.data());
}

void BlockWorker::keep(const WeightItem& item, const WeightBlock& block, BlockBuffers& b) const {
  b.source_bytes = static_cast<std::uint64_t>(block.count);
  b.source.resize(b.source_bytes);
  source_.read(*item.source, static_cast<std::uint64_t>(block.first), b.source);
  const DType from = item.source->info->dtype;
  const std::int64_t first = block.first / element_bytes(item);
  b.data_written = b.source;
  if (item.stored != from) {
    const std::int64_t count = block.count / element_bytes(item);
    std::vector<float> values(static_cast<std::size_t>(count));
    convert_to_float(from, b.source.data(), count, values.data());
    constexpr float kBeyondF16 = 65520;  // what rounds to infinity
    const auto beyond = std::find_if(values.begin(), values.end(),
                                     [](float x) { return std::isfinite(x) && std::fabs(x) >= kBeyondF16; });
    if (beyond != values.end()) {
      refuse(item, first + (beyond - values.begin()),
             fmt::format("is {}, and F16 ends at 65504; use --keep-dtype same", *beyond));
    }
    b.kept.resize(static_cast<std::size_t>(count) * size_of(item.stored));
    convert_from_float(values.data(), count, item.stored, b.kept.data());
    b.data_written = b.kept;
  }
  const auto offset = static_cast<std::uint64_t>(first) * size_of(item.stored);
  files_.open(item.data.shard).write(item.data.offset + offset, b.data_written);
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
  throw Error(fmt::format("{}: tensor {}: the value at [{}] {}",
                          source_.shards()[static_cast<std::size_t>(item.source->shard)].file().path(), quote_name(item.name()),
                          fmt::join(index, ", "), what));
}

}  // namespace tq
