#include "lib/pack/pack_kv.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>

#include "lib/error.h"

namespace tq {
namespace {

constexpr std::int64_t kChunkBytes = std::int64_t{1} << 20;

/// A run of rows of one tensor: what one thread does at a time.
struct Piece {
  const KvPlanItem* item;
  std::int64_t first;
  std::int64_t count;
};

std::vector<Piece> cut_into_pieces(const KvPlan& plan) {
  std::vector<Piece> pieces;
  for (const KvPlanItem& item : plan.items) {
    const auto row_bytes = static_cast<std::int64_t>(item.source->info.bytes) / item.rows();
    const std::int64_t step = std::max<std::int64_t>(1, kChunkBytes / row_bytes);
    for (std::int64_t first = 0; first < item.rows(); first += step) {
      pieces.push_back({&item, first, std::min(step, item.rows() - first)});
    }
  }
  return pieces;
}

struct Buffers {
  std::vector<std::byte> rows;
  std::vector<std::uint8_t> codes;
  std::vector<float> norms;
};

/// Hashes of the tensors, each fed in order.
class Hashes {
 public:
  explicit Hashes(std::size_t count) : states_(count) {
    for (XXH64_state_t& state : states_) XXH64_reset(&state, 0);
  }
  void update(std::size_t tensor, std::span<const std::byte> data) {
    XXH64_update(&states_[tensor], data.data(), data.size());
  }
  std::string digest(std::size_t tensor) const { return format_hash(XXH64_digest(&states_[tensor])); }

 private:
  std::vector<XXH64_state_t> states_;
};

}  // namespace

void report_refused_row(const std::string& path, const KvTensor& tensor, std::int64_t row, const void* values) {
  std::vector<float> x(static_cast<std::size_t>(tensor.head_dim));
  convert_to_float(tensor.info.dtype, values, tensor.head_dim, x.data());
  const auto bad = std::find_if(x.begin(), x.end(), [](float value) { return !std::isfinite(value); });
  const std::string place = fmt::format("{}: {}: head {}, token {}", path, tensor.info.name, row / tensor.tokens,
                                        row % tensor.tokens);
  if (bad != x.end()) {
    throw Error(fmt::format("{}, channel {}: the value is {}; only finite values can be quantized, so look at the run "
                            "that captured it", place, bad - x.begin(), std::isnan(*bad) ? "NaN" : "infinite"));
  }
  throw Error(fmt::format("{}: the norm of the row overflows float32; scale the tensor down", place));
}

void pack_kv(const KvDump& dump, const KvPlan& plan, const Backend& backend, const std::string& path,
             const RunOptions& run) {
  SafetensorsWriter writer(plan.tensors, plan.metadata);
  writer.create(path, run.overwrite);
  Hashes hashes(plan.tensors.size());
  const auto put = [&](std::size_t tensor, std::uint64_t offset, std::span<const std::byte> data) {
    writer.write(tensor, offset, data);
    hashes.update(tensor, data);
  };

  for (const KvPlanTable& table : plan.tables) put(table.tensor, 0, std::as_bytes(std::span(table.values)));

  const std::vector<Piece> pieces = cut_into_pieces(plan);
  std::vector<Buffers> buffers(static_cast<std::size_t>(run.threads));
  const auto encode_piece = [&](std::int64_t index, int worker) {
    const Piece& piece = pieces[static_cast<std::size_t>(index)];
    const KvTensor& source = *piece.item->source;
    const auto row_bytes = source.info.bytes / static_cast<std::uint64_t>(piece.item->rows());
    const auto count = static_cast<std::size_t>(piece.count);
    Buffers& b = buffers[static_cast<std::size_t>(worker)];
    b.rows.resize(count * row_bytes);
    b.codes.resize(count * static_cast<std::size_t>(piece.item->codec->scheme().code_bytes()));
    b.norms.resize(count);
    dump.file().read(source.info, static_cast<std::uint64_t>(piece.first) * row_bytes, b.rows);
    const std::int64_t refused = backend.encode(*piece.item->codec, source.info.dtype, b.rows.data(), piece.count,
                                                b.codes.data(), b.norms.data());
    if (refused >= 0) {
      report_refused_row(dump.file().file().path(), source, piece.first + refused,
                         b.rows.data() + static_cast<std::uint64_t>(refused) * row_bytes);
    }
  };
  const auto write_piece = [&](std::int64_t index, int worker) {
    const Piece& piece = pieces[static_cast<std::size_t>(index)];
    const Buffers& b = buffers[static_cast<std::size_t>(worker)];
    const auto first = static_cast<std::uint64_t>(piece.first);
    const auto code_bytes = static_cast<std::uint64_t>(piece.item->codec->scheme().code_bytes());
    put(piece.item->codes, first * code_bytes, std::as_bytes(std::span(b.codes)));
    put(piece.item->norms, first * sizeof(float), std::as_bytes(std::span(b.norms)));
    if (run.progress) run.progress(b.rows.size());
  };
  parallel_ordered(run.threads, static_cast<std::int64_t>(pieces.size()), encode_piece, write_piece);

  // All data is on its way to the disk; what is left is the header, which makes the file whole.
  for (std::size_t i = 0; i < plan.tensors.size(); ++i) {
    writer.set_metadata(hash_key(plan.tensors[i].name), hashes.digest(i));
  }
  writer.set_metadata(kHeaderHashKey, format_hash(hash_header(writer.header_text(), path)));
  writer.commit();
}

}  // namespace tq
