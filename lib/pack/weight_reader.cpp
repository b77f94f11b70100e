#include "lib/pack/weight_reader.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include "lib/convert.h"
#include "lib/error.h"
#include "lib/io/kv_file.h"
#include "lib/pack/weight_shapes.h"

namespace tq {
namespace {

constexpr std::int64_t kPieceValues = std::int64_t{1} << 18;

constexpr std::int64_t kHashPiece = std::int64_t{1} << 20;

std::atomic<std::uint64_t> readers_made = 0;

}  // namespace

WeightReader::WeightReader(const Backend& backend) : id_(++readers_made), backend_(&backend) {}

std::int64_t WeightReader::Tensor::rows() const {
  std::int64_t product = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) product *= shape[i];
  return product;
}

bool WeightReader::Tensor::is_readable() const {
  if (quantized != nullptr) return true;
  const DType stored = kept->info->dtype;
  return stored == DType::kF32 || stored == DType::kF16 || stored == DType::kBf16;
}

WeightReader WeightReader::open(const std::string& dir, const Backend& backend, std::optional<std::uint32_t> seed) {
  WeightReader reader(backend);
  if (Tq3Checkpoint::claims(dir)) {
    reader.tq3_.emplace(Tq3Checkpoint::open(dir));
    reader.list_tq3(seed);
  } else {
    reader.plain_.emplace(Checkpoint::open(dir));
    reader.list_plain();
  }
  reader.index_tensors();
  return reader;
}

WeightReader WeightReader::open_file(const std::string& path, const Backend& backend) {
  WeightReader reader(backend);
  reader.plain_.emplace(Checkpoint::open_file(path));
  reader.list_plain();
  reader.index_tensors();
  return reader;
}

void WeightReader::index_tensors() {
  for (std::size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
}

void WeightReader::list_plain() {
  for (const Checkpoint::Entry& entry : plain_->tensors()) {
    tensors_.push_back({entry.info->name, entry.info->shape, entry.info->dtype, 0, entry.info->bytes, &entry, nullptr});
  }
}

void WeightReader::list_tq3(std::optional<std::uint32_t> seed) {
  const ModelDimensions dimensions = tq3_->config().by_tq ? ModelDimensions{} : read_model_dimensions(dir());
  for (const Tq3Tensor& source : tq3_->tensors()) {
    Tensor tensor{source.name, source.shape, source.dtype, source.bits, 0, source.kept, nullptr};
    if (source.kept != nullptr) {
      tensor.stored_bytes = source.kept->info->bytes;
    } else {
      tensor.quantized = &source;
      tensor.stored_bytes = source.packed->info->bytes + source.norms->info->bytes;
      if (seed) reseeded_.try_emplace(source.codec.get(), source.codec->with_seed(*seed));
      if (!tq3_->config().by_tq) {
        tensor.shape = restore_shape(source, dimensions, path_of(tensor));
        const std::int64_t padded = source.groups * source.codec->scheme().dim;
        const std::int64_t sample = std::min<std::int64_t>(tensor.rows(), 64);
        if (tensor.row_length() < padded && sample > 0) {
          Tensor whole = tensor;
          whole.shape = source.shape;
          std::vector<float> rows(static_cast<std::size_t>(sample * padded));
          if (reseeded_.empty()) {
            read_rows(whole, 0, sample, rows.data());
            check_padding(rows, sample, tensor.row_length(), source, path_of(tensor));
          }
        }
      }
    }
    tensors_.push_back(std::move(tensor));
  }
}

const WeightReader::Tensor* WeightReader::find(std::string_view name) const {
  const auto found = index_.find(std::string(name));
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const std::string& WeightReader::path_of(const Tensor& tensor) const {
  const Checkpoint::Entry* entry = tensor.kept != nullptr ? tensor.kept : tensor.quantized->packed;
  return checkpoint().shards()[static_cast<std::size_t>(entry->shard)].file().path();
}

void WeightReader::check_rows(const Tensor& tensor, std::int64_t first_row, std::int64_t rows) const {
  if (first_row < 0 || rows < 0 || first_row > tensor.rows() || rows > tensor.rows() - first_row) {
    throw Error(fmt::format("{}: tensor {}: {} rows from row {} on were wanted, but it has {}", path_of(tensor),
                            quote_name(tensor.name), rows, first_row, tensor.rows()));
  }
}

void WeightReader::read_rows(const Tensor& tensor, std::int64_t first_row, std::int64_t rows, float* out) const {
  check_rows(tensor, first_row, rows);
  read_values(tensor, first_row * tensor.row_length(), rows * tensor.row_length(), out);
}

void WeightReader::read_values(const Tensor& tensor, std::int64_t first, std::int64_t count, float* out) const {
  if (first < 0 || count < 0 || first > tensor.values() || count > tensor.values() - first) {
    throw Error(fmt::format("{}: tensor {}: {} values from value {} on were wanted, but it has {}", path_of(tensor),
                            quote_name(tensor.name), count, first, tensor.values()));
  }
  if (!tensor.is_readable()) {
    throw Error(fmt::format("{}: tensor {}: is {}, and values are read of F32, F16, BF16 and quantized tensors alone",
                            path_of(tensor), quote_name(tensor.name), name_of(tensor.kept->info->dtype)));
  }
  if (count == 0) return;
  if (tensor.quantized != nullptr) return read_quantized(tensor, first, count, out);
  read_kept(tensor, first, count, out);
}

void WeightReader::read_kept(const Tensor& tensor, std::int64_t first, std::int64_t count, float* out) const {
  const DType dtype = tensor.kept->info->dtype;
  const auto size = static_cast<std::int64_t>(size_of(dtype));
  std::vector<std::byte> bytes(static_cast<std::size_t>(std::min(count, kPieceValues) * size));
  for (std::int64_t done = 0; done < count; done += kPieceValues) {
    const std::int64_t here = std::min(kPieceValues, count - done);
    const std::span piece(bytes.data(), static_cast<std::size_t>(here * size));
    checkpoint().read(*tensor.kept, static_cast<std::uint64_t>((first + done) * size), piece);
    convert_to_float(dtype, piece.data(), here, out + done);
  }
}

void WeightReader::read_stored(const Tensor& tensor, std::int64_t first_row, std::int64_t rows, std::byte* out) const {
  check_rows(tensor, first_row, rows);
  const std::uint64_t row_bytes = static_cast<std::uint64_t>(tensor.row_length()) * size_of(tensor.kept->info->dtype);
  checkpoint().read(*tensor.kept, static_cast<std::uint64_t>(first_row) * row_bytes,
                    {out, static_cast<std::size_t>(static_cast<std::uint64_t>(rows) * row_bytes)});
}

const Codec& WeightReader::codec_of(const Tensor& tensor) const {
  const std::shared_ptr<const Codec>& codec = tensor.quantized->codec;
  return reseeded_.empty() ? *codec : reseeded_.at(codec.get());
}

void WeightReader::read_lines(const Tensor& tensor, std::int64_t line, std::int64_t lines, std::uint8_t* codes,
                              float* norms) const {
  const Tq3Tensor& source = *tensor.quantized;
  const auto count = static_cast<std::size_t>(lines);
  const auto code_bytes = static_cast<std::size_t>(source.codec->scheme().code_bytes());
  checkpoint().read(*source.packed, static_cast<std::uint64_t>(line) * code_bytes,
                    std::as_writable_bytes(std::span(codes, count * code_bytes)));
  checkpoint().read(*source.norms, static_cast<std::uint64_t>(line) * sizeof(float),
                    std::as_writable_bytes(std::span(norms, count)));
  check_norms(tensor, line, {norms, count});
}

void WeightReader::read_coded(const Tensor& tensor, std::int64_t first_row, std::int64_t rows, std::uint8_t* codes,
                              float* norms) const {
  check_rows(tensor, first_row, rows);
  const std::int64_t groups = tensor.quantized->groups;
  read_lines(tensor, first_row * groups, rows * groups, codes, norms);
}

void WeightReader::check_norms(const Tensor& tensor, std::int64_t first_line, std::span<const float> norms) const {
  const auto bad = std::find_if(norms.begin(), norms.end(), [](float norm) { return !(norm >= 0 && std::isfinite(norm)); });
  if (bad == norms.end()) return;
  const std::int64_t line = first_line + (bad - norms.begin());
  const Checkpoint::Entry& entry = *tensor.quantized->norms;
  throw Error(fmt::format("{}: tensor {}: the norm of row {}, group {} is {}, and norms are finite and 0 or more; {}",
                          checkpoint().shards()[static_cast<std::size_t>(entry.shard)].file().path(),
                          quote_name(entry.info->name), line / tensor.quantized->groups, line % tensor.quantized->groups,
                          *bad, kDamagedCheckpoint));
}

void WeightReader::read_quantized(const Tensor& tensor, std::int64_t first, std::int64_t count, float* out) const {
  const Tq3Tensor& source = *tensor.quantized;
  const Codec& codec = codec_of(tensor);
  const std::int64_t group_size = codec.scheme().dim;
  const std::int64_t code_bytes = codec.scheme().code_bytes();
  const std::int64_t length = tensor.row_length();
  const auto line_of = [&](std::int64_t value) { return value / length * source.groups + value % length / group_size; };
  const std::int64_t end_line = line_of(first + count - 1) + 1;
  const std::int64_t most = kPieceValues / group_size;
  std::vector<std::uint8_t> codes;
  std::vector<float> norms;
  std::vector<float> values;
  for (std::int64_t line = line_of(first); line < end_line; line += most) {
    const std::int64_t here = std::min(most, end_line - line);
    codes.resize(static_cast<std::size_t>(here * code_bytes));
    norms.resize(static_cast<std::size_t>(here));
    values.resize(static_cast<std::size_t>(here * group_size));
    read_lines(tensor, line, here, codes.data(), norms.data());
    backend_->decode(codec, codes.data(), norms.data(), here, DType::kF32, values.data());
    for (std::int64_t i = 0; i < here; ++i) {  // the part of the group that is wanted, and no padding
      const std::int64_t column = (line + i) % source.groups * group_size;
      const std::int64_t start = (line + i) / source.groups * length + column;
      const std::int64_t from = std::max(start, first);
      const std::int64_t end = std::min(start + std::min(group_size, length - column), first + count);
      std::copy_n(values.data() + i * group_size + (from - start), end - from, out + (from - first));
    }
  }
}

void WeightReader::check_hash(const Checkpoint::Entry& entry, const std::string& expected, const Progress& progress) const {
  XXH64_state_t state;
  XXH64_reset(&state, 0);
  std::vector<std::byte> bytes;
  const auto total = static_cast<std::int64_t>(entry.info->bytes);
  for (std::int64_t done = 0; done < total; done += kHashPiece) {
    bytes.resize(static_cast<std::size_t>(std::min(kHashPiece, total - done)));
    checkpoint().read(entry, static_cast<std::uint64_t>(done), bytes);
    XXH64_update(&state, bytes.data(), bytes.size());
    if (progress) progress(bytes.size());
  }
  if (format_hash(XXH64_digest(&state)) == expected) return;
  throw Error(fmt::format("{}: tensor {}: its XXH64 is {}, and {} says {}; {}",
                          checkpoint().shards()[static_cast<std::size_t>(entry.shard)].file().path(),
                          quote_name(entry.info->name), format_hash(XXH64_digest(&state)), kTq3ConfigName, expected, kDamagedCheckpoint));
}

void WeightReader::check_hashes(int threads, const Progress& progress) const {
  if (!has_hashes()) return;
  const Tq3Config& config = tq3_->config();
  parallel_for(threads, static_cast<std::int64_t>(tensors_.size()), [&](std::int64_t index) {
    const Tensor& tensor = tensors_[static_cast<std::size_t>(index)];
    if (tensor.kept != nullptr) {
      check_hash(*tensor.kept, config.kept.at(tensor.name).hash, progress);
    } else {
      check_hash(*tensor.quantized->packed, config.quantized.at(tensor.name).packed_hash, progress);
      check_hash(*tensor.quantized->norms, config.quantized.at(tensor.name).norms_hash, progress);
    }
  });
}

}  // namespace tq
