// The forward pass on a GPU: x goes up and is split into BF16 parts, blocks of weights come as they are stored, products run on the
// thread's stream, results go down. While the device multiplies, the host reads the next block.
#include "kernels/gpu_forward.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <vector>

#include "kernels/bf16_parts.h"
#include "kernels/gpu_backend.h"
#include "kernels/gpu_forward_kernels.h"
#include "kernels/gpu_gemm.h"
#include "kernels/gpu_staging.h"
#include "kernels/gpu_target.h"
#include "kernels/gpu_weights.h"
#include "lib/model/linear.h"

namespace tq {
namespace {

constexpr std::int64_t kFloatBytes = sizeof(float);
constexpr std::int64_t kPartBytes = 2 * kMostParts;  // of a value of x
constexpr std::int64_t kMostQueries = 512;
constexpr std::int64_t kLeastSpare = std::int64_t{3} << 30;
constexpr std::int64_t kMostSpare = std::int64_t{12} << 30;

std::int64_t round_up(std::int64_t value, std::int64_t step) { return (value + step - 1) / step * step; }

/// Values from row to row of a result, and of parts.
std::int64_t stride_of(std::int64_t width) { return round_up(width, 32); }

/// What weights leave alone: a quarter of the device's memory, or of what other programs left of it.
std::int64_t spare_bytes(int device) {
  check_cuda(cudaSetDevice(device), "choosing the device");
  std::size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "asking for free memory");
  const std::int64_t wanted = std::clamp(static_cast<std::int64_t>(total / 4), kLeastSpare, kMostSpare);
  return std::min(wanted, static_cast<std::int64_t>(free / 4 * 3));
}

/// Adds the time of a scope.
class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds) {}
  ~Stopwatch() { seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

class CudaForward final : public CudaForwardDevice {
 public:
  CudaForward(int device, std::string name)
      : device_(device), name_(std::move(name)), spare_(spare_bytes(device)), weights_(spare_) {}

  std::string name() const override { return name_; }

  ForwardSeconds spent() const override {
    const std::lock_guard lock(mutex_);
    ForwardSeconds spent = spent_;
    spent.read_bytes = weights_.read_bytes();
    return spent;
  }

  void run_linear(const ForwardCall& call, std::span<const LinearTask> all) override {
    const std::lock_guard lock(mutex_);
    const Stopwatch watch(spent_.linear);
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
    const Stopwatch watch(spent_.mlps);
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
    const Stopwatch watch(spent_.attention);
    begin(threads);
    const std::int64_t group = task.heads / task.kv_heads, rows = task.tokens - task.past, sides = task.recent > 0 ? 2 : 1;
    const std::int64_t head_bytes =
        kFloatBytes * (group * rows * (task.k_dim + task.v_dim) + sides * task.tokens * (task.k_dim + task.v_dim));
    const std::int64_t step = std::clamp<std::int64_t>(budget() / 2 / head_bytes, 1, task.kv_heads);
    for (std::int64_t head = 0; head < task.kv_heads; head += step) {
      attend_heads(task, head, std::min(step, task.kv_heads - head), out.data());
    }
  }

 private:
  /// What products, MLPs and attention each may take for activations; buffers of fixed size need the rest.
  std::int64_t budget() const { return spare_ / 4; }

  void begin(int threads) {
    check_cuda(cudaSetDevice(device_), "choosing the device");
    staging_.set_threads(threads);
  }

  void upload(const float* from, std::int64_t stride, std::int64_t rows, std::int64_t width, float* to) {
    const Stopwatch watch(spent_.uploading);
    staging_.upload(from, stride, rows, width, to);
  }
  void download(const float* from, std::int64_t from_stride, std::int64_t rows, std::int64_t width, float* to, std::int64_t to_stride) {
    const Stopwatch watch(spent_.downloading);
    staging_.download(from, from_stride, rows, width, to, to_stride);
  }
  LoadedBlock load(const ForwardCall& call, const WeightTensor& tensor, const RowBlock& rows) {
    const Stopwatch watch(spent_.reading);
    return weights_.load(*call.reader, tensor, rows, call.threads);
  }

  // ---- Products with weights.

  /// Room for the parts of x [tokens][width].
  static cuda::Parts parts_at(std::uint16_t* at, std::int64_t tokens, std::int64_t width) {
    return {at, stride_of(width), tokens * stride_of(width), kMostParts};
  }

  void upload_parts(const float* x, std::int64_t x_stride, std::int64_t tokens, std::int64_t width, const cuda::Parts& to) {
    x_.reserve(tokens * width * kFloatBytes);
    upload(x, x_stride, tokens, width, x_.as<float>());
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
      download(y_.as<float>() + y_at[i], stride_of(task.matrix->out), task.tokens, task.matrix->out, task.y, task.y_stride);
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
      download(y, stride_of(hidden), task.tokens, hidden, task.y, hidden);
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

  // ---- Attention.

  /// A side of the cache on the device: all of it, or its newest tokens' exact rows.
  struct Side {
    DeviceBuffer k, v, weights;
  };

  void upload_side(Side& side, const AttentionTask& a, std::span<const float> k, std::span<const float> v, std::int64_t first,
                   std::int64_t heads) {
    side.k.reserve(heads * a.tokens * a.k_dim * kFloatBytes);
    side.v.reserve(heads * a.tokens * a.v_dim * kFloatBytes);
    const std::int64_t k_size = a.tokens * a.k_dim, v_size = a.tokens * a.v_dim;
    upload(k.data() + first * k_size, k_size, heads, k_size, side.k.as<float>());
    upload(v.data() + first * v_size, v_size, heads, v_size, side.v.as<float>());
  }

  /// KV heads first .. first + count - 1, with the queries that share them.
  void attend_heads(const AttentionTask& a, std::int64_t first, std::int64_t count, float* out) {
    const std::int64_t group = a.heads / a.kv_heads, rows = a.tokens - a.past, heads = count * group;
    const bool has_recent = a.recent > 0;
    const std::int64_t q_size = rows * a.k_dim;
    q_.reserve(heads * q_size * kFloatBytes);
    upload(a.q.data() + first * group * q_size, q_size, heads, q_size, q_.as<float>());
    upload_side(cache_, a, a.k, a.v, first, count);
    if (has_recent) upload_side(recent_, a, a.recent_k, a.recent_v, first, count);
    if (!a.sinks.empty()) sinks_.upload(a.sinks.data() + first * group, heads * kFloatBytes, "copying sinks");
    out_.reserve(heads * rows * a.v_dim * kFloatBytes);

    const std::int64_t row_bytes = kFloatBytes * heads * ((has_recent ? 2 : 1) * stride_of(a.tokens) + a.k_dim + a.v_dim);
    const std::int64_t step = std::clamp<std::int64_t>(budget() / 2 / row_bytes, 1, kMostQueries);
    for (std::int64_t query = 0; query < rows; query += step) {
      attend_block(a, count, query, std::min(step, rows - query));
    }
    const std::int64_t width = heads * a.v_dim;
    download(out_.as<float>(), width, rows, width, out + first * group * a.v_dim, a.heads * a.v_dim);
  }

  /// Queries first .. first + queries - 1 of all heads on the device.
  void attend_block(const AttentionTask& a, std::int64_t kv_heads, std::int64_t first, std::int64_t queries) {
    const std::int64_t group = a.heads / a.kv_heads, heads = kv_heads * group, rows = a.tokens - a.past;
    const std::int64_t position = a.past + first;
    const std::int64_t first_key = a.window ? std::max<std::int64_t>(0, position - *a.window + 1) / 32 * 32 : 0;
    const std::int64_t keys = position + queries - first_key, stride = stride_of(keys);
    q_block_.reserve(heads * queries * a.k_dim * kFloatBytes);
    const auto row_bytes = static_cast<std::size_t>(a.k_dim * kFloatBytes);
    check_cuda(cudaMemcpy2DAsync(q_block_.as<void>(), static_cast<std::size_t>(queries) * row_bytes, q_.as<float>() + first * a.k_dim,
                                 static_cast<std::size_t>(rows) * row_bytes, static_cast<std::size_t>(queries) * row_bytes,
                                 static_cast<std::size_t>(heads), cudaMemcpyDeviceToDevice, nullptr),
               "gathering queries");
    multiply_keys(a, cache_, kv_heads, first_key, keys, queries);
    if (a.recent > 0) multiply_keys(a, recent_, kv_heads, first_key, keys, queries);
    cuda::softmax_rows({cache_.weights.as<float>(), a.recent > 0 ? recent_.weights.as<float>() : nullptr, stride, heads, queries, keys,
                        position, first_key, a.window.value_or(0), a.recent, a.scale, a.softcap.value_or(0),
                        a.sinks.empty() ? nullptr : sinks_.as<float>()});
    out_block_.reserve(heads * queries * a.v_dim * kFloatBytes);
    add_values(a, cache_, kv_heads, first_key, keys, queries, false);
    if (a.recent > 0) add_values(a, recent_, kv_heads, first_key, keys, queries, true);
    cuda::join_heads(out_block_.as<float>(), heads, queries, a.v_dim, out_.as<float>() + first * heads * a.v_dim);
  }

  void multiply_keys(const AttentionTask& a, Side& side, std::int64_t kv_heads, std::int64_t first_key, std::int64_t keys,
                     std::int64_t queries) {
    const std::int64_t rows = a.heads / a.kv_heads * queries, stride = stride_of(keys);
    side.weights.reserve(kv_heads * rows * stride * kFloatBytes);
    GemmArgs args;
    args.x = q_block_.as<float>();
    args.x_stride = a.k_dim;
    args.tokens = rows;
    args.w = side.k.as<float>() + first_key * a.k_dim;
    args.w_stride = a.k_dim;
    args.columns = keys;
    args.depth = a.k_dim;
    args.y = side.weights.as<float>();
    args.y_stride = stride;
    args.batch = kv_heads;
    args.x_step = rows * a.k_dim;
    args.w_step = a.tokens * a.k_dim;
    args.y_step = rows * stride;
    gemm_.multiply(args);
  }

  void add_values(const AttentionTask& a, Side& side, std::int64_t kv_heads, std::int64_t first_key, std::int64_t keys,
                  std::int64_t queries, bool add) {
    const std::int64_t rows = a.heads / a.kv_heads * queries, stride = stride_of(keys);
    GemmArgs args;
    args.x = side.weights.as<float>();
    args.x_stride = stride;
    args.tokens = rows;
    args.w = side.v.as<float>() + first_key * a.v_dim;
    args.w_stride = a.v_dim;
    args.columns = a.v_dim;
    args.depth = keys;
    args.by_columns = true;
    args.y = out_block_.as<float>();
    args.y_stride = a.v_dim;
    args.add = add;
    args.batch = kv_heads;
    args.x_step = rows * stride;
    args.w_step = a.tokens * a.v_dim;
    args.y_step = rows * a.v_dim;
    gemm_.multiply(args);
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
  std::map<std::pair<std::uint64_t, const Codec*>, std::unique_ptr<KnownRotation>> rotations_;
  DeviceBuffer x_, x_parts_, gate_, up_, h_parts_, y_, bias_, w_parts_, decoded_;
  Side cache_, recent_;
  DeviceBuffer q_, q_block_, sinks_, out_block_, out_;
};

}  // namespace

std::unique_ptr<CudaForwardDevice> make_cuda_forward(int device) {
  return std::make_unique<CudaForward>(device, make_cuda_backend(device)->name());
}

}  // namespace tq
