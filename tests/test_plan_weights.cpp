// Which tensor is quantized at how many bits, where it goes, and what is refused before a byte is read.
#include <cmath>
#include <map>

#include "lib/measure/moments.h"
#include "lib/pack/plan_weights.h"
#include "lib/pack/weight_blocks.h"
#include "tests/codec_helpers.h"
#include "tests/io_helpers.h"

using namespace tq;
using namespace tq::test;

namespace {

Checkpoint write_model(const Scratch& dir, const std::vector<TensorSpec>& specs) {
  SafetensorsWriter writer(specs);
  writer.create(dir / "model.safetensors", true);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    writer.write(i, 0, std::vector<std::byte>(writer.tensors()[i].bytes));
  }
  writer.commit();
  return Checkpoint::open(dir.dir.string());
}

/// Bits of each tensor, 0 for those that are kept.
std::map<std::string, int> bits_of(const WeightPlan& plan) {
  std::map<std::string, int> bits;
  for (const WeightItem& item : plan.items) bits[item.name()] = item.bits();
  return bits;
}

}  // namespace

TEST_CASE("the rule of the published converter chooses what is quantized") {
  const Scratch dir;
  const auto bf16 = [](const std::string& name, std::vector<std::int64_t> shape) { return TensorSpec{name, DType::kBf16, std::move(shape)}; };
  const Checkpoint model = write_model(
      dir, {bf16("a.weight", {2, 128}), bf16("b.weight", {128, 2}), bf16("c.weight", {127, 127}), bf16("d.bias", {128, 128}),
            bf16("e.weight", {128}), bf16("f.weight", {1, 128, 128}), bf16("mlp.Experts.up", {2, 3, 128}),
            bf16("mlp.experts.small", {200, 3, 127}), bf16("mlp.experts.4d.weight", {1, 2, 3, 128}), bf16("lm_head.weight", {8, 128}),
            bf16("Embed.weight", {8, 128}), bf16("multi_head.weight", {8, 128}), bf16("q_norm.weight", {8, 128}),
            bf16("experts.norms", {2, 2, 128}), bf16("empty.weight", {0, 128}), bf16("narrow.weight", {128, 0}),
            bf16("mlp.gate.weight", {4, 128}), bf16("mlp.gate_proj.weight", {4, 128}), {"step", DType::kI64, {}},
            {"ids.weight.index", DType::kI32, {2, 128}}});
  const WeightPlan plan = plan_weights(model, {});
  std::string quantized;
  for (const auto& [name, bits] : bits_of(plan)) quantized += bits > 0 ? name + " " : "";
  CHECK(quantized == "a.weight b.weight empty.weight mlp.Experts.up mlp.gate.weight mlp.gate_proj.weight ");
  CHECK(bits_of(plan_weights(model, {.skip_router = true}))["mlp.gate.weight"] == 0);
  CHECK(bits_of(plan_weights(model, {.skip_router = true}))["mlp.gate_proj.weight"] == 3);
  const auto skipped = bits_of(plan_weights(model, {.skip = {"^mlp\\.", "(?i)^A"}}));
  CHECK(skipped.at("mlp.gate.weight") + skipped.at("mlp.Experts.up") + skipped.at("a.weight") == 0);
  CHECK(skipped.at("b.weight") == 3);
  const auto mixed = bits_of(plan_weights(model, {.bits = 2, .sensitive_bits = 4, .sensitive_patterns = {"gate_", "b.w"}}));
  CHECK(mixed.at("mlp.gate_proj.weight") == 4);
  CHECK(mixed.at("b.weight") == 4);
  CHECK(mixed.at("mlp.gate.weight") == 2);
}

TEST_CASE("geometry: groups, padding, bytes and bits per weight") {
  const Scratch dir;
  const Checkpoint model = write_model(dir, {{"a.weight", DType::kF32, {3, 200}}, {"experts.x", DType::kF16, {2, 5, 128}},
                                             {"n.weight", DType::kBf16, {130, 1}}, {"k", DType::kF64, {3}}});
  const WeightPlan plan = plan_weights(model, {});
  REQUIRE(plan.items.size() == 4);
  const WeightItem& a = plan.items[0];
  CHECK(a.rows == 3);
  CHECK(a.groups == 2);
  CHECK(a.data_bytes() == 6 * 48);
  CHECK(a.norms_bytes() == 6 * 4);
  CHECK(a.bits_per_weight() == doctest::Approx(8.0 * 6 * 52 / 600));
  CHECK(plan.items[1].rows == 10);
  CHECK(plan.items[1].bits_per_weight() == doctest::Approx(3.25));
  CHECK(plan.items[3].lines() == 130);
  CHECK(plan.tensor_bytes == 6 * 52 + 10 * 52 + 130 * 52 + 24);
  for (const int group_size : {64, 128, 256}) {
    for (const int bits : {2, 3, 4}) {
      const WeightPlan other = plan_weights(model, {.bits = bits, .group_size = group_size});
      const auto groups = static_cast<std::uint64_t>((200 + group_size - 1) / group_size);
      CHECK(other.items[0].bytes() == 3 * groups * static_cast<std::uint64_t>(group_size * bits / 8 + 4));
    }
  }
  CHECK_THROWS_AS(plan_weights(model, {.keep_f16 = true}), Error);  // F64
}

TEST_CASE("files: the next tensor opens a new one when it would pass the limit; codes and norms may part") {
  const Scratch dir;
  const Checkpoint model = write_model(dir, {{"b.weight", DType::kBf16, {4, 128}}, {"a.weight", DType::kBf16, {4, 128}},
                                             {"c", DType::kBf16, {1000}}});
  // a: 192 + 16, b: 192 + 16, c: 2000
  const auto files = [&](std::uint64_t limit) {
    const WeightPlan plan = plan_weights(model, {.max_shard_bytes = limit});
    std::string text;
    for (const auto& [name, shard] : plan.weight_map) text += name + "=" + plan.shards[static_cast<std::size_t>(shard)].name + " ";
    CHECK(plan.tensor_bytes == 2 * 208 + 2000);
    return text;
  };
  CHECK(files(1 << 20) == "a.weight.tq_packed=model.safetensors a.weight.tq_norms=model.safetensors "
                          "b.weight.tq_packed=model.safetensors b.weight.tq_norms=model.safetensors c=model.safetensors ");
  CHECK(files(400) == "a.weight.tq_packed=model-00001-of-00003.safetensors a.weight.tq_norms=model-00001-of-00003.safetensors "
                      "b.weight.tq_packed=model-00001-of-00003.safetensors b.weight.tq_norms=model-00002-of-00003.safetensors "
                      "c=model-00003-of-00003.safetensors ");
  CHECK(files(416).starts_with("a.weight.tq_packed=model-00001-of-00002"));
}

TEST_CASE("what cannot be quantized, stored or asked for is refused by name") {
  const Scratch dir;
  const auto refusal = [&](const std::vector<TensorSpec>& specs) {
    return error_of([&] { plan_weights(write_model(dir, specs), {}); });
  };
  check_contains(refusal({{"a.weight", DType::kF8E4M3, {4, 128}}}), "\"a.weight\" is F8_E4M3, and tq quantizes F32");
  check_contains(refusal({{"a.weight", DType::kU8, {4, 128}}}), "keep the tensor with --skip");
  check_contains(refusal({{"a.weight", DType::kF32, {4, 128}}, {"a.weight.tq_norms", DType::kF32, {1}}}), "no reader could tell them apart; rename it");
  check_contains(refusal({}), "has no tensors");
  const Checkpoint model = write_model(dir, {{"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.weight", DType::kF32, {4, 128}}});
  CHECK_THROWS_AS(plan_weights(model, {.skip = {"("}}), UsageError);
  check_contains(error_of([&] { plan_weights(model, {.skip = {"^(a+a+)+$"}}); }), "make it simpler");
  CHECK_THROWS_AS(plan_weights(model, {.bits = 5}), UsageError);
  CHECK_THROWS_AS(plan_weights(model, {.group_size = 96}), UsageError);
  CHECK_THROWS_AS(plan_weights(model, {.sensitive_patterns = {"x"}}), UsageError);
  put_file(dir / "tq_config.json", "{}");
  check_contains(error_of([&] { plan_weights(model, {}); }), "is a native TQ3 checkpoint already");
}

TEST_CASE("blocks cover every group once, hold whole rows or part of one, and stay within their size") {
  const Scratch dir;
  // a: rows of 3 groups; b: rows longer than a block; c: kept; d: empty
  const Checkpoint model = write_model(dir, {{"a.weight", DType::kF32, {3000, 300}}, {"b.weight", DType::kBf16, {2, 600'000}},
                                             {"c", DType::kU8, {1'200'000}}, {"d.weight", DType::kF32, {0, 128}}});
  const WeightPlan plan = plan_weights(model, {});
  std::vector<std::int64_t> next(4, 0);
  for (const WeightBlock& block : cut_into_blocks(plan, {true, true, true, true})) {
    const WeightItem& item = plan.items[block.item];
    CHECK(block.first == next[block.item]);
    next[block.item] += block.count;
    const std::int64_t end = item.is_quantized() ? item.lines() : static_cast<std::int64_t>(item.source->info->bytes);
    CHECK(block.is_last == (next[block.item] == end));
    if (!item.is_quantized()) continue;
    CHECK(block.count * 128 * static_cast<std::int64_t>(size_of(item.source->info->dtype)) <= kBlockBytes);
    if (item.lines() == 0) continue;
    const bool whole_rows = block.first % item.groups == 0 && block.count % item.groups == 0;
    CHECK((whole_rows || block.first / item.groups == (block.first + block.count - 1) / item.groups));
  }
  CHECK(next == std::vector<std::int64_t>{9000, 2 * 4688, 1'200'000, 0});
  CHECK(cut_into_blocks(plan, {false, false, false, true}).size() == 1);
}

TEST_CASE("kurtosis: 3 for a Gaussian, 1.8 for a uniform density, and merged as if added at once") {
  const std::vector<float> x = gaussian_rows(7, 1000, 128);
  Moments all;
  all.add(x);
  CHECK(all.kurtosis() == doctest::Approx(3).epsilon(0.03));
  Moments parts;
  for (const auto& [first, count] : {std::pair<std::size_t, std::size_t>{0, 77'777}, {77'777, 128'000 - 77'777}}) {
    Moments part;
    part.add({x.data() + first, count});
    parts.merge(part);
  }
  CHECK(parts.count == all.count);
  CHECK(parts.kurtosis() == doctest::Approx(all.kurtosis()).epsilon(1e-12));
  std::vector<float> ramp(1001);
  for (std::size_t i = 0; i < ramp.size(); ++i) ramp[i] = 5 + static_cast<float>(i);
  Moments uniform;
  uniform.add(ramp);
  CHECK(uniform.kurtosis() == doctest::Approx(1.8).epsilon(1e-3));
  Moments constant;
  constant.add(std::vector<float>(9, 0.1f));
  CHECK(std::isnan(constant.kurtosis()));
  CHECK(std::isnan(Moments().kurtosis()));
}
