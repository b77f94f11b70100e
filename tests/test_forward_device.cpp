// The forward pass with a device in the CPU's place: everything that has to go through it does, what comes back is what the CPU
// computes, and the arithmetic of cutting work for a device and weights into BF16 parts holds without one.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "kernels/bf16_parts.h"
#include "kernels/forward_plan.h"
#include "lib/convert.h"
#include "lib/error.h"
#include "lib/model/linear.h"
#include "lib/model/prefill.h"

namespace {

using Floats = std::vector<float>;

/// Does what it is asked on the CPU, one product at a time, and notes which tensors it was given.
class CountingDevice final : public tq::ForwardDevice {
 public:
  std::string name() const override { return "counting"; }

  void run_linear(const tq::ForwardCall& call, std::span<const tq::LinearTask> tasks) override {
    for (const tq::LinearTask& task : tasks) {
      tensors.insert(task.matrix->tensor->name);
      tq::run_linear({call.reader, call.threads, call.progress}, {&task, 1});
    }
  }

  void run_mlps(const tq::ForwardCall& call, const tq::MlpRule& rule, std::span<const tq::MlpTask> tasks) override {
    const tq::RunContext context{call.reader, call.threads, call.progress};
    for (const tq::MlpTask& task : tasks) {
      const tq::MlpLayout& mlp = *task.mlp;
      const std::span x(task.x, static_cast<std::size_t>(task.tokens * mlp.down.out));
      const auto product = [&](const tq::Matrix& m) {
        if (!m) return Floats();
        tensors.insert(m.tensor->name);
        return tq::apply_linear(context, m, x, task.tokens);
      };
      const Floats gate = product(mlp.fused ? mlp.fused : mlp.gate), up = product(mlp.up);
      Floats h(static_cast<std::size_t>(task.tokens * mlp.down.in));
      for (std::size_t i = 0; i < h.size(); ++i) {
        h[i] = mlp.fused      ? tq::activate_clamped(gate[2 * i], gate[2 * i + 1], rule.limit, rule.alpha)
               : gate.empty() ? tq::activate(rule.activation, up[i])
                              : tq::activate(rule.activation, gate[i]) * up[i];
      }
      tensors.insert(mlp.down.tensor->name);
      const Floats y = tq::apply_linear(context, mlp.down, h, task.tokens);
      std::copy(y.begin(), y.end(), task.y);
    }
  }

  void attend(const tq::AttentionTask& task, int threads, std::span<float> out) override {
    ++attentions;
    const Floats found = tq::attend(task, threads);
    REQUIRE(found.size() == out.size());
    std::copy(found.begin(), found.end(), out.begin());
  }

  std::set<std::string> tensors;
  int attentions = 0;
};

std::vector<std::string> fixtures() {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(TQ_TESTS_DIR "/prefill")) {
    if (std::filesystem::exists(entry.path() / "config.json")) found.push_back(entry.path().string());
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// Tensors of two dimensions and more that no product reads: tables, and what is computed on the host.
bool is_product(const tq::Model& model, const tq::WeightTensor& tensor) {
  if (tensor.shape.size() < 2) return false;
  if (&tensor == model.layout().embedding) return model.layout().tied;
  return tensor.name.find("bias") == std::string::npos && tensor.name.find("norm") == std::string::npos;
}

TEST_CASE("every family: all products and all attention go to the device, and the result is the CPU's") {
  for (const std::string& dir : fixtures()) {
    CAPTURE(dir);
    const tq::Model model = tq::Model::open(dir);
    std::vector<std::int32_t> ids(60);
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>((i * 37 + 11) % static_cast<std::size_t>(model.config().vocab));
    CountingDevice device;
    tq::PrefillOptions options;
    options.threads = 2;
    const Floats expected = tq::prefill(model, ids, options);
    const std::vector<double> losses = tq::token_losses(model, expected, ids, 2);
    options.device = &device;
    std::uint64_t told = 0;
    options.progress = [&](std::uint64_t bytes) { told += bytes; };
    options.threads = 1;  // progress is not atomic here
    const Floats got = tq::prefill(model, ids, options);
    CHECK(got == expected);
    CHECK(tq::token_losses(model, got, ids, 2, &device) == losses);
    CHECK(device.attentions == static_cast<int>(model.config().layers.size()));
    CHECK(told > 0);
    for (const tq::WeightTensor& tensor : model.reader().tensors()) {
      const bool of_expert = tensor.name.find("experts") != std::string::npos;  // one that no token chose is not read
      if (!is_product(model, tensor) || of_expert) continue;
      CAPTURE(tensor.name);
      CHECK(device.tensors.count(tensor.name) == 1);
    }
  }
}

TEST_CASE("a layer whose device answers otherwise is noticed") {
  const tq::Model model = tq::Model::open(TQ_TESTS_DIR "/prefill/llama");
  struct Wrong final : tq::ForwardDevice {
    std::string name() const override { return "wrong"; }
    void run_linear(const tq::ForwardCall& call, std::span<const tq::LinearTask> tasks) override { tq::run_linear({call.reader, 1, {}}, tasks); }
    void run_mlps(const tq::ForwardCall&, const tq::MlpRule&, std::span<const tq::MlpTask>) override {}  // y stays 0
    void attend(const tq::AttentionTask& task, int threads, std::span<float> out) override {
      const Floats found = tq::attend(task, threads);
      std::copy(found.begin(), found.end(), out.begin());
    }
  } wrong;
  const std::vector<std::int32_t> ids = {1, 2, 3};
  tq::PrefillOptions options;
  const Floats expected = tq::prefill(model, ids, options);
  options.device = &wrong;
  CHECK(tq::prefill(model, ids, options) != expected);
}

TEST_CASE("BF16 parts: three hold a float32, two an F16, one a BF16") {
  std::mt19937 generator(3);
  std::uniform_real_distribution<float> mantissa(1, 2);
  const auto sum_of = [](float x, int parts) {
    double sum = 0;
    for (int i = 0; i < parts; ++i) sum += static_cast<double>(tq::math::float_from_bf16<std::int32_t>(tq::take_part(x)));
    return sum;
  };
  bool three = true, two_of_float = true, two_of_half = true, one = true;
  for (int i = 0; i < 100000; ++i) {
    const float x = std::ldexp(generator() % 2 == 0 ? mantissa(generator) : -mantissa(generator), static_cast<int>(generator() % 220) - 110);
    three = three && sum_of(x, 3) == static_cast<double>(x);
    two_of_float = two_of_float && sum_of(x, 2) == static_cast<double>(x);
    const float half = tq::math::float_from_f16<std::int32_t>(static_cast<std::int32_t>(generator() & 0xffff));
    if (std::isfinite(half)) two_of_half = two_of_half && sum_of(half, 2) == static_cast<double>(half);
    const float bf16 = tq::math::float_from_bf16<std::int32_t>(static_cast<std::int32_t>(generator() & 0xffff));
    if (std::isfinite(bf16)) one = one && sum_of(bf16, 1) == static_cast<double>(bf16);
  }
  CHECK(three);
  CHECK_FALSE(two_of_float);
  CHECK(two_of_half);
  CHECK(one);
  CHECK(tq::parts_of(tq::DType::kF32) == 3);
  CHECK(tq::parts_of(tq::DType::kF16) == 2);
  CHECK(tq::parts_of(tq::DType::kBf16) == 1);
}

TEST_CASE("weights are cut into blocks that fit, aligned, and cover every row once") {
  tq::TensorInfo info;
  info.dtype = tq::DType::kBf16;
  const tq::Checkpoint::Entry entry{&info, 0};
  const auto check = [&](tq::DType dtype, std::int64_t rows, std::int64_t length, std::int64_t first, std::int64_t count, std::size_t blocks) {
    info.dtype = dtype;
    tq::WeightTensor tensor{"w", {rows, length}, dtype, 0, 0, &entry, nullptr};
    for (const bool transposed : {false, true}) {
      const tq::Matrix m{&tensor, first, transposed ? length : count, transposed ? count : length, transposed};
      const std::vector<tq::RowBlock> plan = tq::plan_blocks(m);
      CHECK(plan.size() == blocks);
      std::int64_t next = first;
      for (const tq::RowBlock& block : plan) {
        CHECK(block.first == next);
        CHECK((block.first - first) % tq::kBlockRows == 0);
        CHECK(tq::stored_rows(tensor).total(block.count) <= tq::kBlockBytes + 256);
        CHECK(block.count * length <= tq::kBlockValues);
        next += block.count;
      }
      CHECK(next == first + count);
    }
  };
  check(tq::DType::kBf16, 14336, 4096, 0, 14336, 2);
  check(tq::DType::kBf16, 14336, 4096, 100, 8192, 1);
  check(tq::DType::kF32, 14336, 4096, 0, 14336, 4);
  check(tq::DType::kBf16, 5, 3, 1, 2, 1);
  check(tq::DType::kBf16, 128256, 8192, 0, 128256, 32);
  info.dtype = tq::DType::kF32;
  tq::WeightTensor wide{"wide", {2, tq::kBlockBytes}, tq::DType::kF32, 0, 0, &entry, nullptr};
  CHECK_THROWS_AS(tq::plan_blocks({&wide, 0, 2, tq::kBlockBytes}), tq::Error);
}

TEST_CASE("tasks are grouped under a budget, and a task that is too large is cut by tokens") {
  const auto plan = [](std::vector<std::int64_t> tokens, std::vector<std::int64_t> bytes, std::int64_t budget) {
    std::string text;
    for (const tq::TaskGroup& g : tq::plan_groups(tokens, bytes, budget)) {
      text += std::to_string(g.first) + "+" + std::to_string(g.count) + ":" + std::to_string(g.token) + "+" + std::to_string(g.tokens) + " ";
    }
    return text;
  };
  CHECK(plan({}, {}, 100) == "");
  CHECK(plan({10, 10, 10}, {1, 1, 1}, 100) == "0+3:0+10 ");
  CHECK(plan({10, 20, 10}, {4, 4, 4}, 100) == "0+1:0+10 1+1:0+20 2+1:0+10 ");
  CHECK(plan({10, 10, 10}, {4, 4, 4}, 80) == "0+2:0+10 2+1:0+10 ");
  CHECK(plan({5, 200, 5}, {1, 1, 1}, 100) == "0+1:0+5 1+1:0+100 1+1:100+100 2+1:0+5 ");
  CHECK(plan({200}, {1000}, 100) == "0+1:0+64 0+1:64+64 0+1:128+64 0+1:192+8 ");  // never fewer than kFewestTokens
}

}  // namespace
