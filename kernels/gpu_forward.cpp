// The forward pass on a GPU: x goes up and is split into BF16 parts, blocks of weights come as they are stored, products run on the
// thread's stream, results go down. While the device multiplies, the host reads the next block.
#include "kernels/gpu_forward.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <vector>

#include "kernels/bf16_parts.h"
#include "kernels/gpu_attention.h"
#include "kernels/gpu_backend.h"
#include "kernels/gpu_forward_kernels.h"
#include "kernels/gpu_gemm.h"
#include "kernels/gpu_staging.h"
#include "kernels/gpu_target.h"
#include "kernels/gpu_weights.h"
#include "lib/model/linear.h"
#include "lib/stopwatch.h"

namespace tq {
namespace {

constexpr std::int64_t kFloatBytes = sizeof(float);
constexpr std::int64_t kPartBytes = 2 * kMostParts;  // of a value of x
constexpr std::int64_t kLeastSpare = std::int64_t{3} << 30;
constexpr std::int64_t kMostSpare = std::int64_t{12} << 30;

/// What weights leave alone: a quarter of the device's memory, or of what other programs left of it.
std::int64_t spare_bytes(int device) {
  check_cuda(cudaSetDevice(device), "choosing the device");
  std::size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "asking for free memory");
  const std::int64_t wanted = std::clamp(static_cast<std::int64_t>(total / 4), kLeastSpare, kMostSpare);
  return std::min(wanted, static_cast<std::int64_t>(free / 4 * 3));
}

class CudaForward final : public CudaForwardDevice {
 public:
  CudaForward(int device, std::string name)
      : device_(device), name_(std::move(name)), spare_(spare_bytes(device)), weights_(spare_) {}

  std::string name() const override { return name_; }

  ForwardSeconds spent() const override {
    const std::lock_guard lock(mutex_);
    ForwardSeconds spent = spent_;
    spent.uploading = staging_.upload_seconds();
    spent.downloading = staging_.download_seconds();
    spent.read_bytes = weights_.read_bytes();
    return spent;
  }

  void run_linear(const ForwardCall& call, std::span<const LinearTask> all) override {
    const std::lock_guard lock(mutex_);
    const ScopeSeconds timing(spent_.linear);
    begin(call.threads);
    std::vector<LinearTask> tasks;
    std::vector<std::int64_t> tokens, bytes;
    for (const LinearTask& task : all) {
      if (task.tokens == 0) continue;
      tasks.push_back(task);
      tokens.push_back(task.tokens);
      bytes.push_back((kFloatBytes + kPartBytes) * stride_of(task.matrix->in) + kFloatBytes * stride_of(task.matrix->out));
    }
    for (const TaskGroup& group : plan_groups(tokens, bytes, budget())) {
      std::vector<LinearTask> here(tasks.begin() + group.first, tasks.begin() + group.first + group.count);
      LinearTask& first = here.front();
      first.x += group.token * first.x_stride;
      first.y += group.token * first.y_stride;
      first.tokens = group.tokens;
      run_group(call, here);
    }
  }

  void run_mlps(const ForwardCall& call, const MlpRule& rule, std::span<const MlpTask> all) override {
    const std::lock_guard lock(mutex_);
    const ScopeSeconds timing(spent_.mlps);
    begin(call.threads);
    std::vector<std::int64_t> tokens, bytes;
    for (const MlpTask& task : all) {
      const Matrix& down = task.mlp->down;
      tokens.push_back(task.tokens);
      bytes.push_back((2 * kFloatBytes + kPartBytes) * (stride_of(down.in) + stride_of(down.out)));
    }
    for (const TaskGroup& group : plan_groups(tokens, bytes, budget())) {
      std::vector<MlpTask> here(all.begin() + group.first, all.begin() + group.first + group.count);
      MlpTask& first = here.front();
      first.x += group.token * first.mlp->down.out;
      first.y += group.token * first.mlp->down.out;
      first.tokens = group.tokens;
      run_group(call, rule, here);
    }
  }

  void attend(const AttentionTask& task, int threads, std::span<float> out) override {
    const std::lock_guard lock(mutex_);
    const ScopeSeconds timing(spent_.attention);
    begin(threads);
    attention_.attend(task, budget(), out);
  }

 private:
  /// What products, MLPs and attention each may take for activations; buffers of fixed size need the rest.
  std::int64_t budget() const { return spare_ / 4; }

  void begin(int threads) {
    check_cuda(cudaSetDevice(device_), "choosing the device");
    staging_.set_threads(threads);
  }

  LoadedBlock load(const ForwardCall& call, const WeightTensor& tensor, const RowBlock& rows) {
    const ScopeSeconds timing(spent_.reading);
    return weights_.load(*call.reader, tensor, rows, call.threads);
  }

  // ---- Products with weights.

  /// Room for the parts of x [tokens][width].
  static cuda::Parts parts_at(std::uint16_t* at, std::int64_t tokens, std::int64_t width) {
    return {at, stride_of(width), tokens * stride_of(width), kMostParts};
  }

  void upload_parts(const float* x, std::int64_t x_stride, std::int64_t tokens, std::int64_t width, const cuda::Parts& to) {
    x_.reserve(tokens * width * kFloatBytes);
    staging_.upload(x, x_stride, tokens, width, x_.as<float>());
    cuda::split_rows(DType::kF32, x_.as<float>(), width, tokens, width, to);
  }

  /// Tasks whose activations fit the device together. Those that share their x share its parts.
  void run_group(const ForwardCall& call, const std::vector<LinearTask>& tasks) {
    const auto same_x = [](const LinearTask& a, const LinearTask& b) {
      return a.x == b.x && a.x_stride == b.x_stride && a.tokens == b.tokens && a.matrix->in == b.matrix->in;
    };
    std::vector<std::int64_t> x_at(tasks.size()), y_at(tasks.size());
    std::int64_t parts = 0, floats = 0;
    std::vector<bool> is_first(tasks.size());
    for (std::size_t i = 0; i < tasks.size(); ++i) {
      const auto found = std::find_if(tasks.begin(), tasks.end(), [&](const LinearTask& other) { return same_x(other, tasks[i]); });
      const auto first = static_cast<std::size_t>(found - tasks.begin());
      is_first[i] = first == i;
      x_at[i] = is_first[i] ? parts : x_at[first];
      if (is_first[i]) parts += tasks[i].tokens * stride_of(tasks[i].matrix->in) * kMostParts;
      y_at[i] = floats;
      floats += tasks[i].tokens * stride_of(tasks[i].matrix->out);
    }
    x_parts_.reserve(parts * 2);
    y_.reserve(floats * kFloatBytes);
    for (std::size_t i = 0; i < tasks.size(); ++i) {
      const LinearTask& task = tasks[i];
      const cuda::Parts x = parts_at(x_parts_.as<std::uint16_t>() + x_at[i], task.tokens, task.matrix->in);
      if (is_first[i]) upload_parts(task.x, task.x_stride, task.tokens, task.matrix->in, x);
      multiply(call, *task.matrix, x, task.tokens, y_.as<float>() + y_at[i]);
    }
    for (std::size_t i = 0; i < tasks.size(); ++i) {
      const LinearTask& task = tasks[i];
      staging_.download(y_.as<float>() + y_at[i], stride_of(task.matrix->out), task.tokens, task.matrix->out, task.y, task.y_stride);
    }
  }

  void run_group(const ForwardCall& call, const MlpRule& rule, const std::vector<MlpTask>& tasks) {
    std::int64_t floats = 0;
    for (const MlpTask& task : tasks) floats += task.tokens * stride_of(task.mlp->down.out);
    y_.reserve(floats * kFloatBytes);
    float* y = y_.as<float>();
    for (const MlpTask& task : tasks) {
      run_mlp(call, rule, task, y);
      y += task.tokens * stride_of(task.mlp->down.out);
    }
    y = y_.as<float>();
    for (const MlpTask& task : tasks) {
      const std::int64_t hidden = task.mlp->down.out;
      staging_.download(y, stride_of(hidden), task.tokens, hidden, task.y, hidden);
      y += task.tokens * stride_of(hidden);
    }
  }

  void run_mlp(const ForwardCall& call, const MlpRule& rule, const MlpTask& task, float* y) {
    const MlpLayout& mlp = *task.mlp;
    const std::int64_t hidden = mlp.down.out, width = mlp.down.in, tokens = task.tokens;
    const std::int64_t stride = stride_of(mlp.fused ? 2 * width : width);
    x_parts_.reserve(tokens * stride_of(hidden) * kPartBytes);
    h_parts_.reserve(tokens * stride_of(width) * kPartBytes);
    const cuda::Parts x = parts_at(x_parts_.as<std::uint16_t>(), tokens, hidden);
    const cuda::Parts h = parts_at(h_parts_.as<std::uint16_t>(), tokens, width);
    upload_parts(task.x, hidden, tokens, hidden, x);
    const auto run = [&](const Matrix& matrix, DeviceBuffer& buffer) -> const float* {
      if (!matrix) return nullptr;
      buffer.reserve(tokens * stride * kFloatBytes);
      multiply(call, matrix, x, tokens, buffer.as<float>());
      return buffer.as<float>();
    };
    const float* gate = run(mlp.fused ? mlp.fused : mlp.gate, gate_);
    const float* up = run(mlp.up, up_);
    cuda::activate_rows({rule.activation, rule.limit, rule.alpha, bool(mlp.fused), gate, up, stride, tokens, width}, h);
    multiply(call, mlp.down, h, tokens, y);
  }

  /// y [tokens][stride_of(out)] = x W + bias.
  void multiply(const ForwardCall& call, const Matrix& m, const cuda::Parts& x, std::int64_t tokens, float* y) {
    GemmArgs args;
    args.dtype = DType::kBf16;
    args.tokens = tokens;
    args.x_stride = x.stride;
    args.y_stride = stride_of(m.out);
    args.by_columns = m.transposed;
    for (const RowBlock& rows : plan_blocks(m)) {
      const LoadedBlock block = load(call, *m.tensor, rows);
      const cuda::Parts w = find_parts(*call.reader, *m.tensor, rows, block);
      const std::int64_t first = rows.first - m.first_row;
      args.w_stride = w.stride;
      args.columns = m.transposed ? m.out : rows.count;
      args.depth = m.transposed ? rows.count : m.in;
      args.y = m.transposed ? y : y + first;
      if (!m.transposed) args.add = false;
      for (int sum = kLastSum; sum >= 0; --sum) {
        for (int j = 0; j < w.count && j <= sum; ++j) {
          args.x = x.data + (sum - j) * x.step + (m.transposed ? first : 0);
          args.w = w.data + j * w.step;
          gemm_.multiply(args);
          args.add = true;
        }
      }
      weights_.release(block);
      if (call.progress) call.progress(stored_bytes(*m.tensor, rows.count * m.tensor->row_length()));
    }
    if (m.bias != nullptr) add_bias(call, m, tokens, y);
  }

  void add_bias(const ForwardCall& call, const Matrix& m, std::int64_t tokens, float* y) {
    const std::vector<float> bias = read_vector(*call.reader, *m.bias, m.bias_row);
    bias_.upload(bias.data() + m.bias_first, m.out * kFloatBytes, "copying a bias");
    cuda::add_bias(y, stride_of(m.out), tokens, m.out, bias_.as<float>());
  }

  /// The block as BF16 parts: itself where it is BF16 and its rows are aligned, else decoded and split.
  cuda::Parts find_parts(const WeightReader& reader, const WeightTensor& tensor, const RowBlock& rows, const LoadedBlock& block) {
    const std::int64_t length = tensor.row_length();
    const DType stored = tensor.quantized != nullptr ? DType::kF32 : tensor.kept->info->dtype;
    const auto* data = reinterpret_cast<const std::uint8_t*>(block.data);
    if (stored == DType::kBf16 && length % 8 == 0) {
      auto* values = const_cast<std::uint16_t*>(reinterpret_cast<const std::uint16_t*>(data));
      return {values, length, 0, 1};
    }
    const int count = parts_of(stored);
    const std::int64_t stride = stride_of(length);
    w_parts_.reserve(count * rows.count * stride * 2);
    const cuda::Parts parts{w_parts_.as<std::uint16_t>(), stride, rows.count * stride, count};
    const void* from = data;
    const StoredRows row = stored_rows(tensor);
    if (tensor.quantized != nullptr) {
      decoded_.reserve(rows.count * row.stride * kFloatBytes);
      const Codec& codec = reader.codec_of(tensor);
      cuda::decode_rows({find_rotation(reader, codec), &codec.codebook(), DType::kF32, data, block.norms, rows.count * row.groups,
                         decoded_.as<std::uint8_t>()});
      from = decoded_.as<void>();
    }
    cuda::split_rows(stored, from, row.stride, rows.count, length, parts);
    return parts;
  }

  const math::RotationView& find_rotation(const WeightReader& reader, const Codec& codec) {
    auto& known = rotations_[{reader.id(), &codec}];
    if (known == nullptr) {
      known = std::make_unique<KnownRotation>();
      known->view = known->memory.upload(codec.rotation());
    }
    return known->view;
  }

  struct KnownRotation {
    DeviceRotation memory;
    math::RotationView view;
  };

  int device_;
  std::string name_;
  std::int64_t spare_;
  mutable std::mutex mutex_;  ///< guards what follows, and keeps calls in order
  ForwardSeconds spent_;
  Gemm gemm_;
  DeviceWeights weights_;
  Staging staging_;
  GpuAttention attention_{gemm_, staging_};
  std::map<std::pair<std::uint64_t, const Codec*>, std::unique_ptr<KnownRotation>> rotations_;
  DeviceBuffer x_, x_parts_, gate_, up_, h_parts_, y_, bias_, w_parts_, decoded_;
};

}  // namespace

std::unique_ptr<CudaForwardDevice> make_cuda_forward(int device) {
  return std::make_unique<CudaForward>(device, make_cuda_backend(device)->name());
}

}  // namespace tq
