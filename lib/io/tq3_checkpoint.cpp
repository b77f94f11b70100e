#include "lib/io/tq3_checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>

#include "lib/error.h"

namespace tq {
namespace {

/// Makes the list of tensors from a checkpoint and its configuration.
class TensorLister {
 public:
  TensorLister(const Checkpoint& checkpoint, const Tq3Config& config) : checkpoint_(checkpoint), config_(config) {}

  std::vector<Tq3Tensor> list() {
    for (const Checkpoint::Entry& entry : checkpoint_.tensors()) {
      const std::string_view name = entry.info->name;
      if (name.ends_with(kPackedSuffix)) {
        add_quantized(entry, std::string(name.substr(0, name.size() - kPackedSuffix.size())));
      } else if (name.ends_with(kNormsSuffix)) {
        const std::string base(name.substr(0, name.size() - kNormsSuffix.size()));
        if (checkpoint_.find(base + std::string(kPackedSuffix)) == nullptr) fail(entry, "has no codes beside it");
      } else {
        add_kept(entry);
      }
    }
    if (config_.by_tq) check_names();
    return std::move(tensors_);
  }

 private:
  [[noreturn]] void fail(const Checkpoint::Entry& entry, const std::string& what) const {
    throw Error(fmt::format("{}: tensor {} {}; {}",
                            checkpoint_.shards()[static_cast<std::size_t>(entry.shard)].file().path(),
                            quote_name(entry.info->name), what, kDamagedCheckpoint));
  }

  void add_kept(const Checkpoint::Entry& entry) {
    Tq3Tensor tensor;
    tensor.name = entry.info->name;
    tensor.kept = &entry;
    tensor.shape = entry.info->shape;
    tensor.dtype = entry.info->dtype;
    if (config_.by_tq) {
      const auto told = config_.kept.find(tensor.name);
      if (told == config_.kept.end()) fail(entry, fmt::format("is not in {}", kTq3ConfigName));
      tensor.dtype = told->second.dtype;
    }
    tensors_.push_back(std::move(tensor));
  }

  void add_quantized(const Checkpoint::Entry& entry, std::string base) {
    Tq3Tensor tensor;
    tensor.name = std::move(base);
    tensor.packed = &entry;
    tensor.norms = checkpoint_.find(tensor.name + std::string(kNormsSuffix));
    if (tensor.norms == nullptr) fail(entry, "has no norms beside it");
    const TensorInfo& norms = *tensor.norms->info;
    if (norms.dtype != DType::kF32 || norms.shape.size() != 2) fail(*tensor.norms, "is not F32 [rows, groups]");
    tensor.rows = norms.shape[0];
    tensor.groups = norms.shape[1];
    set_source(entry, tensor);
    check_size(entry, tensor);
    tensors_.push_back(std::move(tensor));
  }

  /// Bits, type and shape, as far as they are told.
  void set_source(const Checkpoint::Entry& entry, Tq3Tensor& tensor) {
    tensor.bits = config_.bits_of(tensor.name);
    std::int64_t padded = 0;
    if (__builtin_mul_overflow(tensor.groups, config_.group_size, &padded)) fail(*tensor.norms, "has too many groups");
    tensor.shape = {tensor.rows, padded};
    if (!config_.by_tq) return;
    const auto told = config_.quantized.find(tensor.name);
    if (told == config_.quantized.end()) fail(entry, fmt::format("is not in {}", kTq3ConfigName));
    tensor.bits = told->second.bits;
    tensor.dtype = told->second.dtype;
    tensor.shape = told->second.shape;
    std::int64_t rows = 1;
    for (std::size_t i = 0; i + 1 < tensor.shape.size(); ++i) rows *= tensor.shape[i];
    const std::int64_t groups = (tensor.shape.back() + config_.group_size - 1) / config_.group_size;
    if (rows != tensor.rows || groups != tensor.groups) {
      fail(*tensor.norms, fmt::format("is [{}], which does not fit the source's shape [{}]",
                                      fmt::join(tensor.norms->info->shape, ", "), fmt::join(tensor.shape, ", ")));
    }
  }

  void check_size(const Checkpoint::Entry& entry, Tq3Tensor& tensor) {
    const std::uint64_t lines = tensor.norms->info->bytes / sizeof(float);
    const auto line_bytes = static_cast<std::uint64_t>(config_.group_size * tensor.bits / 8);
    // lines is at most 2^61, and line_bytes 128: a division, because the product may overflow.
    if (entry.info->dtype != DType::kU8 || entry.info->bytes % line_bytes != 0 || entry.info->bytes / line_bytes != lines) {
      fail(entry, fmt::format("is {} of {} bytes, and {} groups of {} values at {} bits take {} bytes each",
                              name_of(entry.info->dtype), entry.info->bytes, lines, config_.group_size, tensor.bits,
                              line_bytes));
    }
    std::shared_ptr<const Codec>& codec = codecs_[tensor.bits];
    if (codec == nullptr) codec = std::make_shared<const Codec>(config_.scheme_of(tensor.bits));
    tensor.codec = codec;
  }

  void check_names() const {
    const auto missing = [&](const std::string& name) {
      throw Error(fmt::format("{}: has no tensor {}, which {} names; the checkpoint is incomplete", checkpoint_.dir(),
                              quote_name(name), kTq3ConfigName));
    };
    for (const auto& [name, unused] : config_.quantized) {
      if (checkpoint_.find(name + std::string(kPackedSuffix)) == nullptr) missing(name);
    }
    for (const auto& [name, unused] : config_.kept) {
      if (checkpoint_.find(name) == nullptr) missing(name);
    }
  }

  const Checkpoint& checkpoint_;
  const Tq3Config& config_;
  std::map<int, std::shared_ptr<const Codec>> codecs_;
  std::vector<Tq3Tensor> tensors_;
};

std::string config_path(const std::string& dir) { return (std::filesystem::path(dir) / kTq3ConfigName).string(); }

}  // namespace

bool Tq3Checkpoint::claims(const std::string& dir) {
  std::error_code ignored;
  return std::filesystem::exists(config_path(dir), ignored);
}

Tq3Checkpoint Tq3Checkpoint::open(const std::string& dir) {
  if (!claims(dir)) {
    throw Error(fmt::format("{}: has no {}, so it is no native TQ3 checkpoint; 'tq pack-weights' writes one", dir,
                            kTq3ConfigName));
  }
  Tq3Config config = parse_tq3_config(read_text_file(config_path(dir)), config_path(dir));
  Tq3Checkpoint result(Checkpoint::open(dir));
  result.config_ = std::move(config);
  result.tensors_ = TensorLister(result.checkpoint_, result.config_).list();
  for (std::size_t i = 0; i < result.tensors_.size(); ++i) {
    if (result.index_.emplace(result.tensors_[i].name, i).second) continue;
    throw Error(fmt::format("{}: tensor {} is there twice, quantized and as it is; {}", dir,
                            quote_name(result.tensors_[i].name), kDamagedCheckpoint));
  }
  return result;
}

const Tq3Tensor* Tq3Checkpoint::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

}  // namespace tq
