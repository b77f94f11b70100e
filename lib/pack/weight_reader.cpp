#include "lib/pack/weight_reader.h"

#include <span>

#include "lib/convert.h"
#include "lib/error.h"

namespace tq {

WeightReader WeightReader::open(const std::string& dir) {
  WeightReader reader(Checkpoint::open(dir));
  for (const Checkpoint::Entry& entry : reader.checkpoint_.tensors()) {
    reader.index_.emplace(entry.info->name, reader.tensors_.size());
    reader.tensors_.push_back({entry.info->name, entry.info->shape, entry.info->dtype, 0});
  }
  return reader;
}

const WeightReader::Tensor* WeightReader::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

void WeightReader::read_rows(const Tensor& tensor, std::int64_t first_row, std::int64_t rows, float* out) const {
  const Checkpoint::Entry& entry = checkpoint_.at(tensor.name);
  const std::int64_t width = tensor.shape.empty() ? 1 : tensor.shape.back();
  const std::size_t size = size_of(tensor.dtype);
  if (tensor.dtype == DType::kF32) {
    checkpoint_.read(entry, static_cast<std::uint64_t>(first_row * width) * size, std::as_writable_bytes(std::span(out, static_cast<std::size_t>(rows * width))));
    return;
  }
  static thread_local std::vector<std::byte> raw;
  raw.resize(static_cast<std::size_t>(rows * width) * size);
  checkpoint_.read(entry, static_cast<std::uint64_t>(first_row * width) * size, raw);
  convert_to_float(tensor.dtype, raw.data(), rows * width, out);
}

}  // namespace tq
