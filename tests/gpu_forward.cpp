// Does the GPU's forward pass compute what the CPU's does? Products of many shapes and types of weights, MLPs, attention with every
// mask, and attention statistics are computed by both; then whole models, whose queries, keys and values are compared.
//
//   gpu_forward [N]            CUDA device N, by default 0: the list of cases below
//   gpu_forward N DIR TOKENS   the model in DIR on TOKENS tokens: q, k, v of every layer, CPU against GPU, and seconds;
//                              with one argument more, the seconds of the GPU alone
//
// Exit 0: near enough, and every control was noticed; 1: not; 3: could not run; 77: no GPU here, counted as skipped by CTest.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "kernels/gpu_backend.h"
#include "kernels/gpu_forward.h"
#include "lib/convert.h"
#include "lib/error.h"
#include "lib/io/safetensors.h"
#include "lib/model/linear.h"
#include "lib/model/prefill.h"
#include "tests/gpu_forward_helpers.h"

namespace tq {
namespace {

constexpr int kSkipped = 77;

/// Relative to the root mean square of what is compared. Products: x and w are cut to 24 bits and summed in float32, on both sides
/// with an error that grows with the root of the depth, 2^-24 sqrt(4096) = 4e-6 of the terms' RMS; tensor cores cut each sum of 16
/// terms instead of rounding it, 5e-6 at depth 4096 (docs/kernels.md).
constexpr double kMostProduct = 1e-5;
/// A softmax multiplies the logits' error by their size.
constexpr double kMostAttention = 2e-5;
/// Of queries, keys and values in a whole model of some layers: ten times what it is, a twentieth of what is promised.
constexpr double kMostModel = 5e-5;

Floats run(const RunContext& context, const Matrix& m, const Floats& x, std::int64_t tokens) {
  return apply_linear(context, m, x, tokens);
}

void check_products(ForwardDevice& device, Tally& tally) {
  constexpr std::int64_t kShapes[][2] = {{64, 64}, {7, 5}, {33, 130}, {300, 257}, {1, 4096}, {4096, 8}, {1000, 2048}};  // out, in
  std::vector<TensorCase> tensors;
  for (const DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    for (const auto& [out, in] : kShapes) tensors.push_back({fmt::format("{}.{}x{}", name_of(dtype), out, in), dtype, {out, in}});
  }
  tensors.push_back({"large", DType::kBf16, {20000, 4096}});  // several blocks
  tensors.push_back({"bias", DType::kF32, {3, 20000}});
  const std::string path = write_weights(tensors);
  const auto cpu = make_cpu_backend();
  const WeightReader reader = WeightReader::open_file(path, *cpu);
  const RunContext on_cpu{&reader, default_threads(), {}, nullptr}, on_gpu{&reader, default_threads(), {}, &device};
  for (const WeightTensor& tensor : reader.tensors()) {
    if (tensor.name == "bias") continue;
    for (const bool transposed : {false, true}) {
      Matrix m{&tensor, 0, tensor.shape[0], tensor.shape[1], false, reader.find("bias"), 1, 0};
      if (transposed) std::swap(m.in, m.out), m.transposed = true;
      for (const std::int64_t tokens : {1, 3, 64, 200}) {
        if (tensor.name == "large" && tokens > 3) continue;
        const Floats x = draw_x(tokens * m.in, 7);
        const std::string name = fmt::format("{}{}, {} tokens", tensor.name, transposed ? " transposed" : "", tokens);
        const Floats expected = run(on_cpu, m, x, tokens);
        tally.add(name, difference(expected, run(on_gpu, m, x, tokens)), kMostProduct);
        if (tokens != 64 || m.in < 64) continue;
        tally.add_control(name + " with x in BF16", difference(expected, run(on_gpu, m, with_bf16_x(x), tokens)), kMostProduct);
      }
    }
  }
  // Rows of a larger tensor, x and y with strides, several tasks that share x, one of no tokens.
  const WeightTensor& tensor = *reader.find("BF16.300x257");
  const Matrix parts[] = {{&tensor, 0, 100, 257}, {&tensor, 100, 200, 257}, {&tensor, 250, 50, 257}};
  const Floats x = draw_x(40 * 300, 8);
  const auto run_all = [&](const RunContext& context) {
    Floats y(40 * 512);
    const LinearTask tasks[] = {{&parts[0], x.data(), 300, 40, y.data(), 512},
                                {&parts[1], x.data(), 300, 40, y.data() + 100, 512},
                                {&parts[2], x.data(), 300, 0, nullptr, 0},
                                {&parts[2], x.data() + 20, 300, 39, y.data() + 400, 512}};
    run_linear(context, tasks);
    return y;
  };
  tally.add("tasks side by side", difference(run_all(on_cpu), run_all(on_gpu)), kMostProduct);
  std::filesystem::remove(path);
}

/// Weights that stay on the device are those of their reader, not of one that was closed and may have had its address.
void check_readers(ForwardDevice& device, Tally& tally) {
  const auto cpu = make_cpu_backend();
  Floats before;
  for (const std::uint32_t seed : {1, 2, 3, 4}) {
    const std::string path = write_weights({{"w", DType::kBf16, {64, 64}}}, seed);
    const WeightReader reader = WeightReader::open_file(path, *cpu);
    const Matrix m{reader.find("w"), 0, 64, 64};
    const Floats x = draw_x(10 * 64, 7), expected = run({&reader, 1, {}, nullptr}, m, x, 10), got = run({&reader, 1, {}, &device}, m, x, 10);
    tally.add("reader after reader", difference(expected, got), kMostProduct);
    if (!before.empty()) tally.add_control("another reader's weights", difference(before, got), kMostProduct);
    before = got;
    std::filesystem::remove(path);
  }
}

void check_mlps(ForwardDevice& device, Tally& tally) {
  const std::int64_t hidden = 96, width = 200;
  const std::string path = write_weights({{"gate", DType::kBf16, {width, hidden}}, {"up", DType::kBf16, {width, hidden}},
                                          {"down", DType::kBf16, {hidden, width}}, {"fused", DType::kF32, {2 * width, hidden}},
                                          {"bias", DType::kF32, {2 * width}}});
  const auto cpu = make_cpu_backend();
  const WeightReader reader = WeightReader::open_file(path, *cpu);
  const auto matrix = [&](const char* name, std::int64_t out, std::int64_t in, bool bias) {
    return Matrix{reader.find(name), 0, out, in, false, bias ? reader.find("bias") : nullptr, 0, 0};
  };
  for (const bool bias : {false, true}) {
    MlpLayout gated, plain, fused;
    gated.gate = matrix("gate", width, hidden, bias);
    gated.up = plain.up = matrix("up", width, hidden, bias);
    fused.fused = matrix("fused", 2 * width, hidden, bias);
    gated.down = plain.down = fused.down = matrix("down", hidden, width, bias);
    for (const Activation activation : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu}) {
      const MlpRule rule{activation, 3.0f, 1.7f};
      for (const MlpLayout* mlp : {&gated, &plain, &fused}) {
        const Floats x = gauss(50 * hidden, 9);
        Floats got(x.size());
        const MlpTask tasks[] = {{mlp, 20, x.data(), got.data()}, {mlp, 30, x.data() + 20 * hidden, got.data() + 20 * hidden}};
        device.run_mlps({&reader, default_threads(), {}}, rule, tasks);
        const RunContext context{&reader, default_threads(), {}, nullptr};
        Floats h = mlp->up ? run(context, mlp->up, x, 50) : Floats(static_cast<std::size_t>(50 * width));
        const Floats gate = mlp->fused ? run(context, mlp->fused, x, 50) : mlp->gate ? run(context, mlp->gate, x, 50) : Floats();
        for (std::size_t i = 0; i < h.size(); ++i) {
          h[i] = mlp->fused ? activate_clamped(gate[2 * i], gate[2 * i + 1], rule.limit, rule.alpha)
                 : mlp->gate ? activate(activation, gate[i]) * h[i] : activate(activation, h[i]);
        }
        const std::string name = fmt::format("MLP {}, activation {}{}", mlp == &gated ? "gated" : mlp == &plain ? "plain" : "fused",
                                             static_cast<int>(activation), bias ? ", biases" : "");
        tally.add(name, difference(run(context, mlp->down, h, 50), got), kMostProduct);
      }
    }
  }
  std::filesystem::remove(path);
}

// ---- Attention.

struct Shape {
  std::int64_t heads, kv_heads, tokens, k_dim, v_dim, past;
};

void check_attention(ForwardDevice& device, Tally& tally) {
  constexpr Shape kAttentionShapes[] = {{4, 2, 75, 12, 10, 0}, {8, 8, 130, 64, 64, 0}, {6, 1, 700, 128, 128, 0}, {9, 3, 1100, 64, 48, 0},
                                        {4, 4, 300, 576, 512, 0}, {4, 2, 90, 32, 32, 89}, {4, 2, 90, 33, 31, 50}};
  for (const Shape& s : kAttentionShapes) {
    const Floats q = gauss(s.heads * (s.tokens - s.past) * s.k_dim, 1), k = gauss(s.kv_heads * s.tokens * s.k_dim, 2);
    const Floats v = gauss(s.kv_heads * s.tokens * s.v_dim, 3), near_k = gauss(s.kv_heads * s.tokens * s.k_dim, 4);
    const Floats near_v = gauss(s.kv_heads * s.tokens * s.v_dim, 5), sinks = gauss(s.heads, 6, 2);
    for (const std::int64_t window : {0, 1, 37, 600}) {
      for (const double softcap : {0.0, 4.0}) {
        for (const std::int64_t recent : {0, 1, 50}) {
          const double scale = 1.5 / std::sqrt(static_cast<double>(s.k_dim));
          AttentionTask task{q, k, v, s.heads, s.kv_heads, s.tokens, s.k_dim, s.v_dim, scale, s.past};
          if (window > 0) task.window = window;
          if (softcap > 0) task.softcap = softcap;
          if (softcap > 0) task.sinks = sinks;
          task.recent = recent;
          if (recent > 0) task.recent_k = near_k, task.recent_v = near_v;
          const Floats expected = attend(task, default_threads());
          const std::string name = fmt::format("{} heads on {}, {} tokens, window {}, cap {}, recent {}", s.heads, s.kv_heads,
                                               s.tokens, window, softcap, recent);
          tally.add(name, difference(expected, attend(task, default_threads(), &device)), kMostAttention);
          if (window != 37) continue;
          task.window = 36;
          tally.add_control(name + ", window 36", difference(expected, attend(task, default_threads(), &device)), kMostAttention);
          task.window = 37;
          ++task.recent;
          if (recent > 0 && recent < 37) {
            tally.add_control(name + ", one more", difference(expected, attend(task, default_threads(), &device)), kMostAttention);
          }
        }
      }
    }
  }
}

// ---- Attention statistics.

/// Sums are double on both sides: what differs is the order of the float32 products under them, 2^-24 sqrt(128) = 7e-7 of a logit of
/// size 1. The logits' own error is a tenth of that size here, so squares of it move by twice 7e-6; equal caches stay equal.
constexpr double kMostStatistic = 2e-5;

void check_statistics(const MeasureAttention& on_gpu, Tally& tally) {
  using StatisticsShape = std::array<std::int64_t, 5>;
  for (const auto& [heads, queries, tokens, d_k, d_v] :
       {StatisticsShape{1, 1, 1, 8, 8}, {4, 90, 90, 16, 12}, {3, 140, 200, 64, 80}, {4, 512, 1500, 128, 128}}) {
    const Floats q = gauss(heads * queries * d_k, 1), k = gauss(tokens * d_k, 2), v = gauss(tokens * d_v, 3), sinks = gauss(heads, 9);
    Floats k_hat = gauss(tokens * d_k, 4, 0.2f), v_hat = gauss(tokens * d_v, 5, 0.1f);
    for (std::size_t i = 0; i < k.size(); ++i) k_hat[i] += k[i];
    for (std::size_t i = 0; i < v.size(); ++i) v_hat[i] += v[i];
    AttentionInputs in{q, k, k_hat, v, v_hat, heads, queries, tokens, d_k, d_v, 1.5 / std::sqrt(static_cast<double>(d_k)), {}, {}, 0, {}};
    const auto check = [&](const std::string& what) {
      const std::string name = fmt::format("statistics of {} x {} queries, {} tokens, {}", heads, queries, tokens, what);
      const AttentionStats a = measure_attention(in), b = on_gpu(in);
      const bool counts = a.queries() == b.queries() && a.pairs() == b.pairs() && a.compared_queries() == b.compared_queries();
      tally.add(name + ": counts", counts ? 0 : 1, 0);
      const auto close = [&](const char* number, double x, double y) {
        const bool both_nan = std::isnan(x) && std::isnan(y);
        tally.add(name + ": " + number, both_nan || x == y ? 0 : std::fabs(x - y) / std::max(std::fabs(x), 1e-6), kMostStatistic);
      };
      close("logit RMSE", a.logit_rmse(), b.logit_rmse());
      close("mean KL", a.kl_mean(), b.kl_mean());
      close("KL p99", a.kl_p99(), b.kl_p99());
      close("largest KL", a.kl_max(), b.kl_max());
      close("output error", a.output_relative_error(), b.output_relative_error());
      close("output cosine", a.output_cosine_mean(), b.output_cosine_mean());
      const auto ties = 2.0 / static_cast<double>(std::max<std::int64_t>(1, a.compared_queries()));  // a tie may fall the other way
      tally.add(name + ": top-1", std::isnan(a.top1_agreement()) ? 0 : std::fabs(a.top1_agreement() - b.top1_agreement()), ties);
      return a.kl_mean();
    };
    const double plain = check("plain");
    in.window = 33;
    const double windowed = check("window 33");
    if (tokens > 100) tally.add_control("statistics with a window", std::fabs(plain - windowed) / plain, kMostStatistic);
    in.softcap = 3;
    check("window, cap");
    in.sinks = sinks;
    in.recent = 5;
    check("window, cap, sinks, recent 5");
    in.window.reset();
    check("cap, sinks, recent 5");
    in.k_hat = k;
    in.v_hat = v;
    in.recent = 0;  // else the output is a sum of two products on one side alone
    const AttentionStats same = on_gpu(in);
    tally.add("statistics of equal caches", same.logit_rmse() == 0 && !(same.kl_max() > 0) && same.output_relative_error() == 0 ? 0 : 1, 0);
  }
}

// ---- Whole models.

struct Captured {
  std::vector<LayerKv> layers;
  Floats hidden;
  double seconds = 0;
};

Captured capture(const Model& model, const std::vector<std::int32_t>& ids, bool latent, ForwardDevice* device) {
  Captured captured;
  PrefillOptions options;
  options.threads = default_threads();
  options.mla_latent = latent;
  options.hook = [&](LayerKv& kv) { captured.layers.push_back(kv); };
  options.device = device;
  const auto start = std::chrono::steady_clock::now();
  captured.hidden = prefill(model, ids, options);
  captured.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return captured;
}

/// Two passes: weights are read in the first, and are there in the second as far as they fit.
void show_seconds(const Model& model, const std::vector<std::int32_t>& ids, bool latent, CudaForwardDevice& device) {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); };
  PrefillOptions options;
  options.threads = default_threads();
  options.mla_latent = latent;
  options.device = &device;
  for (const char* pass : {"first", "second"}) {
    const ForwardSeconds before = device.spent();
    Clock::time_point start = Clock::now();
    const Floats hidden = prefill(model, ids, options);
    const double pass_seconds = since(start);
    const ForwardSeconds s = device.spent();
    start = Clock::now();
    const double read = perplexity(token_losses(model, hidden, ids, options.threads, &device));
    fmt::print("{} pass {:.2f} s: linear {:.2f}, MLPs {:.2f}, attention {:.2f}, the host's own work {:.2f}; of these reading {:.2f} ({:.1f} GB), up "
               "{:.2f}, down {:.2f}; then losses {:.2f} s, perplexity {:.4g}\n", pass, pass_seconds, s.linear - before.linear, s.mlps - before.mlps,
               s.attention - before.attention,
               pass_seconds - (s.linear + s.mlps + s.attention - before.linear - before.mlps - before.attention), s.reading - before.reading,
               1e-9 * static_cast<double>(s.read_bytes - before.read_bytes), s.uploading - before.uploading, s.downloading - before.downloading,
               since(start), read);
  }
}

void check_model(const std::string& dir, std::int64_t tokens, bool latent, CudaForwardDevice& device, Tally& tally, bool print,
                 bool seconds_alone = false) {
  const Model model = Model::open(dir);
  std::mt19937 generator(5);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(std::min(tokens, model.config().context)));
  for (std::int32_t& id : ids) id = static_cast<std::int32_t>(generator() % static_cast<std::uint32_t>(model.config().vocab));
  if (print) show_seconds(model, ids, latent, device);
  if (print && seconds_alone) return;
  const Captured a = capture(model, ids, latent, nullptr), b = capture(model, ids, latent, &device);
  const std::string name = std::filesystem::path(dir).filename().string() + (latent ? ", latent" : "");
  double worst[3] = {};
  for (std::size_t i = 0; i < a.layers.size(); ++i) {
    worst[0] = std::max(worst[0], difference(a.layers[i].q, b.layers[i].q));
    worst[1] = std::max(worst[1], difference(a.layers[i].k, b.layers[i].k));
    worst[2] = std::max(worst[2], difference(a.layers[i].v, b.layers[i].v));
  }
  for (const double error : worst) tally.add(name, error, kMostModel);
  const double hidden = difference(a.hidden, b.hidden);
  tally.add(name + ": hidden states", hidden, kMostModel);
  if (!print) return;
  fmt::print("{}: {} tokens, {} layers: worst of a layer q {:.2e} k {:.2e} v {:.2e}, hidden {:.2e}; CPU {:.2f} s, GPU {:.2f} s\n", name, ids.size(), a.layers.size(), worst[0], worst[1], worst[2], hidden, a.seconds, b.seconds);
}

int run_cases(int number, CudaForwardDevice& device) {
  int failures = 0;
  const auto step = [&](const char* name, auto check) {
    Tally tally;
    check(tally);
    fmt::print("{}: {} cases, {} failed, largest difference {:.3g}\n", name, tally.cases, tally.failures, tally.worst);
    failures += tally.failures;
  };
  step("products", [&](Tally& t) { check_products(device, t); });
  step("readers", [&](Tally& t) { check_readers(device, t); });
  step("MLPs", [&](Tally& t) { check_mlps(device, t); });
  step("attention", [&](Tally& t) { check_attention(device, t); });
  step("statistics", [&](Tally& t) { check_statistics(make_cuda_attention_meter(number), t); });
  const char* folder = std::getenv("TQ_TEST_MODELS");
  const std::filesystem::path models = folder != nullptr ? folder : TQ_TESTS_DIR "/prefill";
  step("models", [&](Tally& t) {
    if (!std::filesystem::is_directory(models)) {
      fmt::print("  {}: is not there: no models\n", models.string());
      return;
    }
    for (const auto& entry : std::filesystem::directory_iterator(models)) {
      if (!std::filesystem::exists(entry.path() / "config.json")) continue;
      check_model(entry.path().string(), 90, false, device, t, false);
      if (Model::open(entry.path().string()).config().mla) check_model(entry.path().string(), 90, true, device, t, false);
    }
  });
  return failures;
}

}  // namespace
}  // namespace tq

int main(int argc, char** argv) {
  try {
    const int number = argc > 1 ? std::stoi(argv[1]) : 0;
    if (const std::string missing = tq::describe_missing_cuda(); !missing.empty()) {
      fmt::print("skipped: {}\n", missing);
      return tq::kSkipped;
    }
    const auto device = tq::make_cuda_forward(number);
    fmt::print("{}\n", device->name());
    if (argc < 4) return tq::run_cases(number, *device) == 0 ? 0 : 1;
    tq::Tally tally;
    tq::check_model(argv[2], std::stoll(argv[3]), false, *device, tally, true, argc > 4);
    return tally.failures == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    fmt::print("could not run: {}\n", error.what());
    return 3;
  }
}
