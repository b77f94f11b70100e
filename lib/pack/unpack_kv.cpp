#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "lib/convert.h"
#include "lib/error.h"
#include "lib/pack/pack_kv.h"

namespace tq {
namespace {

constexpr std::int64_t kChunkBytes = std::int64_t{1} << 20;

std::vector<const PackedTensor*> list_tensors(const KvFile& file) {
  std::vector<const PackedTensor*> tensors;
  for (const PackedLayer& layer : file.layers()) {
    tensors.push_back(&layer.k);
    tensors.push_back(&layer.v);
  }
  return tensors;
}

SafetensorsWriter plan_output(const KvFile& file, std::optional<DType> dtype) {
  std::vector<TensorSpec> specs;
  for (const PackedTensor* tensor : list_tensors(file)) {
    specs.push_back(tensor->source);
    specs.back().dtype = dtype.value_or(tensor->source.dtype);
  }
  return SafetensorsWriter(specs, {file.dump_metadata().begin(), file.dump_metadata().end()});
}

/// F16 and BF16 round to infinity where float32 held a finite value.
void check_finite(const KvFile& file, const PackedTensor& tensor, DType dtype, std::int64_t first,
                  std::span<const std::byte> rows) {
  if (dtype == DType::kF32) return;
  const std::uint16_t infinity = dtype == DType::kF16 ? 0x7c00 : 0x7f80;
  for (std::size_t i = 0; i < rows.size() / 2; ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, rows.data() + 2 * i, 2);
    if ((bits & 0x7fff) < infinity) continue;
    const std::int64_t row = first + static_cast<std::int64_t>(i) / tensor.dim;
    throw Error(fmt::format("{}: {}: head {}, token {}: a reconstructed value is too large for {}; use --dtype {}",
                            file.file().file().path(), tensor.name, row / tensor.tokens, row % tensor.tokens,
                            name_of(dtype), dtype == DType::kF16 ? "bf16 or f32" : "f32"));
  }
}

/// What one thread does at a time: a run of rows, or a head where its scheme is more than rows.
struct Piece {
  const PackedHeads* heads;
  std::int64_t first;  ///< row of the tensor
  std::int64_t count;
};

std::vector<Piece> cut_into_pieces(const PackedTensor& tensor, std::int64_t row_bytes) {
  std::vector<Piece> pieces;
  for (const PackedHeads& part : tensor.parts) {
    const std::int64_t step = part.scheme.is_plain() ? std::max<std::int64_t>(1, kChunkBytes / row_bytes) : tensor.tokens;
    const std::int64_t begin = part.first_head * tensor.tokens;
    const std::int64_t end = begin + part.heads * tensor.tokens;
    for (std::int64_t first = begin; first < end; first += step) pieces.push_back({&part, first, std::min(step, end - first)});
  }
  return pieces;
}

void decode_piece(const KvFile& file, const PackedTensor& tensor, const Piece& piece, const Backend& backend, DType dtype,
                  std::byte* out) {
  const PackedHeads& part = *piece.heads;
  if (part.scheme.is_plain()) {
    CodedRows coded;
    file.read_rows(part, piece.first - part.first_head * tensor.tokens, piece.count, coded);
    decode_rows(backend, *part.codec->rows(), coded, Decode::kInnerProduct, dtype, out);
    return;
  }
  const std::vector<float> rows =
      decode_head(backend, *part.codec, file.read_head(tensor, piece.first / tensor.tokens), Decode::kInnerProduct);
  convert_from_float(rows.data(), static_cast<std::int64_t>(rows.size()), dtype, out);
}

}  // namespace

std::uint64_t unpacked_bytes(const KvFile& file, std::optional<DType> dtype) {
  return plan_output(file, dtype).total_bytes();
}

void unpack_kv(const KvFile& file, std::optional<DType> dtype, const Backend& backend, const std::string& path,
               const RunOptions& run) {
  SafetensorsWriter writer = plan_output(file, dtype);
  writer.create(path, run.overwrite);
  file.check_payload(run.threads);

  // From here on the codes and norms are known to be those that were written.
  const std::vector<const PackedTensor*> tensors = list_tensors(file);
  for (std::size_t index = 0; index < tensors.size(); ++index) {
    const PackedTensor& tensor = *tensors[index];
    const DType type = dtype.value_or(tensor.source.dtype);
    const auto row_bytes = static_cast<std::int64_t>(size_of(type)) * tensor.dim;
    const std::vector<Piece> pieces = cut_into_pieces(tensor, row_bytes);
    const std::uint64_t bytes_of_row = tensor.bytes() / static_cast<std::uint64_t>(tensor.rows());
    parallel_for(run.threads, static_cast<std::int64_t>(pieces.size()), [&](std::int64_t i) {
      const Piece& piece = pieces[static_cast<std::size_t>(i)];
      std::vector<std::byte> rows(static_cast<std::size_t>(piece.count * row_bytes));
      decode_piece(file, tensor, piece, backend, type, rows.data());
      check_finite(file, tensor, type, piece.first, rows);
      writer.write(index, static_cast<std::uint64_t>(piece.first * row_bytes), rows);
      if (run.progress) run.progress(static_cast<std::uint64_t>(piece.count) * bytes_of_row);
    });
  }
  writer.commit();
}

}  // namespace tq
