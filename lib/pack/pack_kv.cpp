#include "lib/pack/pack_kv.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>

#include "lib/convert.h"
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
  CodedRows coded;
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

void report_refused_row(const std::string& place, const Scheme& scheme, std::span<const float> x) {
  const auto bad = std::find_if(x.begin(), x.end(), [](float value) { return !std::isfinite(value); });
  if (bad != x.end()) {
    throw Error(fmt::format("{}, channel {}: the value is {}; only finite values can be quantized, so look at the run "
                            "that captured it", place, bad - x.begin(), std::isnan(*bad) ? "NaN" : "infinite"));
  }
  constexpr double kUnderflowsF16 = 1.0;  // a norm that underflows F16 is below 6e-8, one that overflows above 65504
  double squares = 0;
  for (const float value : x) squares += static_cast<double>(value) * value;
  const bool underflows = scheme.norm_dtype == DType::kF16 && squares < kUnderflowsF16;
  throw Error(fmt::format("{}: the norm of the row {} {}; {}", place,
                          underflows ? "(or of its residual) is not 0 and becomes 0 in" : "overflows",
                          name_of(scheme.norm_dtype),
                          scheme.norm_dtype == DType::kF16 ? "use --norm-dtype f32" : "scale the tensor down"));
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
    Buffers& b = buffers[static_cast<std::size_t>(worker)];
    b.rows.resize(static_cast<std::size_t>(piece.count) * row_bytes);
    dump.file().read(source.info, static_cast<std::uint64_t>(piece.first) * row_bytes, b.rows);
    const Codec& codec = *piece.item->codec;
    const std::int64_t refused = encode_rows(backend, codec, source.info.dtype, b.rows.data(), piece.count, b.coded);
    if (refused < 0) return;
    std::vector<float> x(static_cast<std::size_t>(source.head_dim));
    convert_to_float(source.info.dtype, b.rows.data() + static_cast<std::uint64_t>(refused) * row_bytes, source.head_dim,
                     x.data());
    const std::int64_t row = piece.first + refused;
    report_refused_row(fmt::format("{}: {}: head {}, token {}", dump.file().file().path(), quote_name(source.info.name),
                                   row / source.tokens, row % source.tokens), codec.scheme(), x);
  };
  const auto write_piece = [&](std::int64_t index, int worker) {
    const Piece& piece = pieces[static_cast<std::size_t>(index)];
    const Buffers& b = buffers[static_cast<std::size_t>(worker)];
    const Scheme& scheme = piece.item->codec->scheme();
    const auto first = static_cast<std::uint64_t>(piece.first);
    const auto put_bytes = [&](std::size_t tensor, const std::vector<std::uint8_t>& rows, int row_bytes) {
      put(tensor, first * static_cast<std::uint64_t>(row_bytes), std::as_bytes(std::span(rows)));
    };
    const auto put_norms = [&](std::size_t tensor, const std::vector<float>& norms) {
      std::vector<std::byte> stored(norms.size() * size_of(scheme.norm_dtype));
      convert_from_float(norms.data(), static_cast<std::int64_t>(norms.size()), scheme.norm_dtype, stored.data());
      put(tensor, first * size_of(scheme.norm_dtype), stored);
    };
    put_bytes(piece.item->codes, b.coded.codes, scheme.code_bytes());
    put_norms(piece.item->norms, b.coded.norms);
    if (scheme.qjl) {
      put_bytes(piece.item->signs, b.coded.signs, scheme.sign_bytes());
      put_norms(piece.item->residual_norms, b.coded.residual_norms);
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
