#include "lib/io/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <atomic>
#include <bit>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "lib/error.h"

namespace tq {

static_assert(std::endian::native == std::endian::little,
              "safetensors data are used as they lie in the file");

namespace {

constexpr std::size_t kDataAlignment = 64;

// Text as a JSON string, quotes included.
std::string encode_json(std::string_view text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::type_error&) {
    throw Error(fmt::format("{} is not UTF-8, and a safetensors header must be", quote_name(text)));
  }
}

}  // namespace

SafetensorsFile::SafetensorsFile(InputFile file, std::string header, SafetensorsHeader parsed)
    : file_(std::move(file)), header_(std::move(header)), parsed_(std::move(parsed)) {
  for (std::size_t i = 0; i < parsed_.tensors.size(); ++i)
    index_.emplace(parsed_.tensors[i].name, i);
}

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  InputFile file = InputFile::open(path);
  if (file.size() < 8) {
    throw Error(fmt::format(
        "{}: is not a safetensors file: it has {} bytes, and the header's length alone takes 8",
        path, file.size()));
  }
  std::uint64_t length = 0;
  file.read(0, std::as_writable_bytes(std::span(&length, 1)));
  if (length > kMaxSafetensorsHeader || length > file.size() - 8) {
    throw Error(fmt::format(
        "{}: the first 8 bytes announce a header of {} bytes, but {}; it is no safetensors file, "
        "or "
        "it is truncated",
        path, length,
        length > file.size() - 8 ? fmt::format("the file has {} bytes", file.size())
                                 : fmt::format("{} are the limit", kMaxSafetensorsHeader)));
  }
  std::string header(length, '\0');
  file.read(8, std::as_writable_bytes(std::span(header)));
  SafetensorsHeader parsed = parse_safetensors_header(header, file.size() - 8 - length, path);
  return SafetensorsFile(std::move(file), std::move(header), std::move(parsed));
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &parsed_.tensors[found->second];
}

const TensorInfo& SafetensorsFile::at(std::string_view name) const {
  if (const TensorInfo* tensor = find(name)) return *tensor;
  throw Error(fmt::format("{}: has no tensor {}", file_.path(), quote_name(name)));
}

void SafetensorsFile::read(const TensorInfo& tensor, std::uint64_t byte_offset,
                           std::span<std::byte> out) const {
  if (byte_offset > tensor.bytes || out.size() > tensor.bytes - byte_offset) {
    throw Error(fmt::format("{}: tensor {}: {} bytes at byte {} were wanted, but it has {} bytes",
                            file_.path(), quote_name(tensor.name), out.size(), byte_offset,
                            tensor.bytes));
  }
  file_.read(tensor.offset + byte_offset, out);
}

SafetensorsWriter::SafetensorsWriter(const std::vector<TensorSpec>& specs,
                                     const MetadataList& metadata)
    : written_(specs.size(), 0) {
  header_ = "{";
  if (!metadata.empty()) header_ += fmt::format("\"{}\":{{", kMetadataName);
  for (const auto& [key, value] : metadata) {
    if (!metadata_.empty()) header_ += ',';
    header_ += encode_json(key) + ':';
    const std::string encoded = encode_json(value);
    if (!metadata_.emplace(key, Place{header_.size(), encoded.size()}).second) {
      throw Error(fmt::format("metadata key {} is given twice", quote_name(key)));
    }
    header_ += encoded;
  }
  if (!metadata.empty()) header_ += '}';

  std::unordered_set<std::string_view> names{kMetadataName};
  for (const TensorSpec& spec : specs) {
    if (!names.insert(spec.name).second) {
      throw Error(fmt::format("tensor {}: the name is taken", quote_name(spec.name)));
    }
    const std::optional<std::uint64_t> bytes = tensor_bytes(spec.dtype, spec.shape);
    constexpr std::uint64_t kMost =
        std::numeric_limits<std::int64_t>::max() - 2 * kMaxSafetensorsHeader;
    if (!bytes || *bytes > kMost - data_bytes_) {
      throw Error(fmt::format("tensor {}: the shape [{}] is negative or too large",
                              quote_name(spec.name), fmt::join(spec.shape, ", ")));
    }
    if (header_.size() > 1) header_ += ',';
    header_ += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                           encode_json(spec.name), name_of(spec.dtype), fmt::join(spec.shape, ","),
                           data_bytes_, data_bytes_ + *bytes);
    tensors_.push_back({spec.name, spec.dtype, spec.shape, data_bytes_, *bytes});
    data_bytes_ += *bytes;
  }
  header_ += '}';
  header_.append((kDataAlignment - (8 + header_.size()) % kDataAlignment) % kDataAlignment, ' ');
  if (header_.size() > kMaxSafetensorsHeader) {
    throw Error(fmt::format("the header takes {} bytes, and {} are the limit", header_.size(),
                            kMaxSafetensorsHeader));
  }
  for (TensorInfo& tensor : tensors_) tensor.offset += 8 + header_.size();
}

AtomicFile& SafetensorsWriter::out() {
  if (!file_) throw Error("a safetensors file must be created before it is written");
  return *file_;
}

void SafetensorsWriter::create(const std::string& path, bool overwrite) {
  if (file_) throw Error(fmt::format("{}: is being written already", file_->path()));
  file_.emplace(AtomicFile::open(path, overwrite));
  file_->reserve(total_bytes());
}

void SafetensorsWriter::write(std::size_t index, std::uint64_t byte_offset,
                              std::span<const std::byte> data) {
  if (index >= tensors_.size()) {
    throw Error(fmt::format("{}: tensor {} does not exist, there are {}", out().path(), index,
                            tensors_.size()));
  }
  const TensorInfo& tensor = tensors_[index];
  if (byte_offset > tensor.bytes || data.size() > tensor.bytes - byte_offset) {
    throw Error(fmt::format("{}: tensor {}: {} bytes at byte {} do not fit into its {} bytes",
                            out().path(), quote_name(tensor.name), data.size(), byte_offset,
                            tensor.bytes));
  }
  out().write(tensor.offset + byte_offset, data);
  std::atomic_ref(written_[index]).fetch_add(data.size());
}

void SafetensorsWriter::set_metadata(std::string_view key, std::string_view value) {
  if (committed_) throw Error(fmt::format("metadata {} is set after commit", quote_name(key)));
  const auto found = metadata_.find(key);
  if (found == metadata_.end())
    throw Error(fmt::format("metadata key {} was not planned", quote_name(key)));
  const std::string encoded = encode_json(value);
  const Place place = found->second;
  if (encoded.size() != place.length) {
    throw Error(fmt::format("metadata {} takes {} bytes, but {} were planned", quote_name(key),
                            encoded.size(), place.length));
  }
  header_.replace(place.offset, place.length, encoded);
}

void SafetensorsWriter::commit() {
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    if (written_[i] != tensors_[i].bytes) {
      throw Error(fmt::format("{}: tensor {}: {} of {} bytes were written; nothing is kept",
                              out().path(), quote_name(tensors_[i].name), written_[i],
                              tensors_[i].bytes));
    }
  }
  const std::uint64_t length = header_.size();
  out().write(0, std::as_bytes(std::span(&length, 1)));
  out().write(8, std::as_bytes(std::span(header_)));
  out().commit();
  committed_ = true;
}

}  // namespace tq
