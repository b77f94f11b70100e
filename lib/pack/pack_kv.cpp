#include "lib/pack/pack_kv.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

#include "lib/convert.h"
#include "lib/error.h"

namespace tq {
namespace {

constexpr std::int64_t kChunkBytes = std::int64_t{1} << 20;

/// What one thread does at a time: a run of rows, or a head where the scheme looks at all of its tokens.
struct Piece {
  const KvPlanItem* item;
  std::int64_t first;  ///< row of the tensor that came
  std::int64_t count;
  bool whole_head;
};

std::vector<Piece> cut_into_pieces(const KvPlan& plan) {
  std::vector<Piece> pieces;
  for (const KvPlanItem& item : plan.items) {
    const bool plain = item.codec->scheme().is_plain();
    const auto row_bytes = static_cast<std::int64_t>(item.source->info.bytes) / (item.source->heads * item.source->tokens);
    const std::int64_t step = plain ? std::max<std::int64_t>(1, kChunkBytes / row_bytes) : item.source->tokens;
    const std::int64_t begin = item.first_head * item.source->tokens;
    for (std::int64_t first = 0; first < item.rows(); first += step) {
      pieces.push_back({&item, begin + first, std::min(step, item.rows() - first), !plain});
    }
  }
  return pieces;
}

struct Buffers {
  std::vector<std::byte> rows;
  StreamBytes streams;
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

std::vector<float> widen(const Piece& piece, const std::vector<std::byte>& rows) {
  std::vector<float> x(static_cast<std::size_t>(piece.count) * static_cast<std::size_t>(piece.item->source->head_dim));
  convert_to_float(piece.item->source->info.dtype, rows.data(), static_cast<std::int64_t>(x.size()), x.data());
  return x;
}

StreamBytes code_rows(const Backend& backend, const Piece& piece, const std::vector<std::byte>& rows, const std::string& place) {
  const KvTensor& source = *piece.item->source;
  const CacheCodec& codec = *piece.item->codec;
  CodedHead coded;
  const std::int64_t refused =
      encode_rows(backend, *codec.rows(), source.info.dtype, rows.data(), piece.count, coded.rows);
  if (refused < 0) return to_streams(codec.scheme(), coded);
  const std::int64_t row = piece.first + refused;
  const auto dim = static_cast<std::size_t>(source.head_dim);
  const std::vector<float> x = widen(piece, rows);
  report_refused_row(fmt::format("{}: head {}, token {}", place, row / source.tokens, row % source.tokens),
                     codec.scheme().rows, std::span(x).subspan(static_cast<std::size_t>(refused) * dim, dim));
}

StreamBytes code_head(const Backend& backend, const Piece& piece, const std::vector<std::byte>& rows, const std::string& place) {
  const KvTensor& source = *piece.item->source;
  const std::vector<float> x = widen(piece, rows);
  const std::int64_t head = piece.first / source.tokens;
  return to_streams(piece.item->codec->scheme(),
                    encode_head(backend, *piece.item->codec, x, fmt::format("{}: head {}", place, head)));
}

}  // namespace

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
    Buffers& b = buffers[static_cast<std::size_t>(worker)];
    const auto row_bytes = source.info.bytes / static_cast<std::uint64_t>(source.heads * source.tokens);
    b.rows.resize(static_cast<std::size_t>(piece.count) * row_bytes);
    dump.file().read(source.info, static_cast<std::uint64_t>(piece.first) * row_bytes, b.rows);
    const std::string place = fmt::format("{}: {}", dump.file().file().path(), quote_name(source.info.name));
    b.streams = piece.whole_head ? code_head(backend, piece, b.rows, place) : code_rows(backend, piece, b.rows, place);
  };
  const auto write_piece = [&](std::int64_t index, int worker) {
    const Piece& piece = pieces[static_cast<std::size_t>(index)];
    const Buffers& b = buffers[static_cast<std::size_t>(worker)];
    const KvPlanItem& item = *piece.item;
    const auto first = static_cast<std::uint64_t>(piece.first - item.first_head * item.source->tokens);
    const auto tokens = static_cast<std::uint64_t>(item.source->tokens);
    for (std::size_t i = 0; i < b.streams.size(); ++i) {
      put(item.streams[i], first * item.specs[i].bytes() / tokens, b.streams[i]);
    }
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
