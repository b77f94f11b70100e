// tq size: bytes by hand, and against what is really planned for a checkpoint.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "lib/io/checkpoint.h"
#include "lib/pack/plan_weights.h"
#include "lib/verify/size_plan.h"
#include "tests/io_helpers.h"

namespace tq {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// 3 layers of 8 query heads and 2 KV heads of 64.
Json llama() {
  return {{"model_type", "llama"}, {"hidden_size", 512}, {"num_hidden_layers", 3}, {"num_attention_heads", 8},
          {"num_key_value_heads", 2}, {"vocab_size", 1000}, {"intermediate_size", 1408}, {"max_position_embeddings", 512},
          {"tie_word_embeddings", false}};
}

Json deepseek() {
  Json json = llama();
  json.update({{"model_type", "deepseek_v3"}, {"kv_lora_rank", 56}, {"qk_nope_head_dim", 8}, {"qk_rope_head_dim", 8},
               {"v_head_dim", 12}, {"n_routed_experts", 8}, {"n_group", 4}, {"topk_group", 2}, {"num_experts_per_tok", 3},
               {"moe_intermediate_size", 8}, {"first_k_dense_replace", 1}});
  return json;
}

Json with(Json json, const char* key, Json value) {
  json[key] = std::move(value);
  return json;
}

SizePlan plan(const Json& json, const SizeOptions& options) {
  return plan_size(parse_model_config(json.dump(), "config.json", ConfigUse::kSizes), options);
}

SizeOptions at(std::vector<std::int64_t> contexts, std::int64_t batch = 1) {
  SizeOptions options;
  options.contexts = std::move(contexts);
  options.batch = batch;
  return options;
}

const CacheSize& find(const SizePlan& plan, std::string_view name) {
  const auto found = std::find_if(plan.caches.begin(), plan.caches.end(), [&](const CacheSize& size) { return size.name == name; });
  REQUIRE(found != plan.caches.end());
  return *found;
}

TEST_CASE("grouped queries: bytes of a token by hand") {
  const SizePlan p = plan(llama(), at({1, 1000}, 4));
  const auto per_token = [&](const char* name) {
    const CacheSize& size = find(p, name);
    REQUIRE(size.bytes.size() == 2);
    CHECK(size.bytes[1] == 1000 * size.bytes[0]);
    CHECK(size.bytes[0] % (4 * 3 * 2) == 0);  // sequences, layers, heads
    return size.bytes[0] / (4 * 3 * 2);       // of K and V of a head
  };
  CHECK(per_token("bf16") == 128 + 128);
  CHECK(per_token("k8v8") == 68 + 68);
  CHECK(per_token("k8v4") == 68 + 36);
  CHECK(per_token("k4v4") == 36 + 36);
  CHECK(per_token("k4v3") == 36 + 28);
  CHECK(per_token("k3v3") == 28 + 28);
  CHECK(per_token("k2v2") == 20 + 20);
  CHECK(per_token("fp8") == 64 + 64);
  CHECK(per_token("q8_0") == 2 * 34 + 2 * 34);
  CHECK(per_token("q4_0") == 2 * 18 + 2 * 18);
  CHECK(per_token("vllm:turboquant_4bit_nc") == 32 + 2 + 32 + 4);
  // KIVI: 128 tokens in 16 bits, then 16 bytes of codes and 2 groups of 4 bytes a row.
  const std::uint64_t kivi = 128 * (128 + 128) + 872 * 24 + 864 * 24 + 8 * 128;
  CHECK(find(p, "kivi2").bytes[1] == 4 * 3 * 2 * kivi);
  CHECK(p.notes.size() == 1);  // of the weights
}

TEST_CASE("codes of odd rows end on a byte; dims that a system refuses have no bytes and a reason") {
  const SizePlan p = plan(with(llama(), "head_dim", 100), at({1}));
  CHECK(find(p, "k3v3").bytes[0] == 6 * 2 * (38 + 4));
  for (const char* name : {"q8_0", "vllm:turboquant_4bit_nc"}) {
    CHECK(find(p, name).bytes.empty());
    CHECK(find(p, name).refused.find("100") != std::string::npos);
  }
  const SizePlan small = plan(with(llama(), "head_dim", 4), at({1}));
  CHECK(find(small, "bf16").bytes[0] == 6 * 16);
  for (const char* name : {"k4v4", "fp8"}) CHECK(find(small, name).bytes.empty());
  CHECK(find(plan(with(llama(), "head_dim", 1 << 24), at({1})), "k4v4").bytes.empty());
}

TEST_CASE("a sliding window holds its own tokens and no more") {
  const Json mistral = with(with(llama(), "model_type", "mistral"), "sliding_window", 16);
  const SizePlan p = plan(mistral, at({10, 16, 5000}));
  CHECK(find(p, "bf16").bytes == std::vector<std::uint64_t>{10 * 6 * 256, 16 * 6 * 256, 16 * 6 * 256});
  CHECK(find(p, "k4v4").bytes[2] == 16 * 6 * 72);
  CHECK(p.notes.size() == 2);
  const SizePlan mixed = plan(with(with(mistral, "model_type", "gemma2"), "head_dim", 64), at({5000}));  // layers 0 and 2 slide
  REQUIRE(mixed.shapes.size() == 2);
  CHECK(mixed.shapes[0].layers == 2);
  CHECK(find(mixed, "bf16").bytes[0] == (2 * 16 + 5000) * 2 * 256);
}

TEST_CASE("a latent cache is one row a token, for keys and values") {
  const SizePlan p = plan(deepseek(), at({1, 100}));
  CHECK(p.latent);
  CHECK(find(p, "bf16").bytes == std::vector<std::uint64_t>{3 * 128, 300 * 128});
  CHECK(find(p, "k4v4").bytes[1] == 300 * 36);
  CHECK(find(p, "k4v3").bytes == find(p, "k4v4").bytes);
  CHECK(find(p, "q8_0").bytes[0] == 3 * 68);
  for (const char* name : {"kivi2", "vllm:turboquant_k8v4"}) CHECK(find(p, name).refused.find("apart") != std::string::npos);
}

TEST_CASE("layers without a cache of their own; weights in another form do not matter") {
  CHECK_THROWS_AS(parse_model_config(with(llama(), "num_kv_shared_layers", 2).dump(), "config.json"), Error);
  CHECK(find(plan(with(llama(), "num_kv_shared_layers", 2), at({1})), "bf16").bytes[0] == 2 * 256);
  CHECK_THROWS_AS(plan(with(llama(), "num_kv_shared_layers", 3), at({1})), Error);
  CHECK(plan(with(llama(), "quantization_config", {{"quant_method", "fp8"}}), at({1})).parameters == 9481728);
  Json hybrid = with(llama(), "model_type", "qwen3");
  hybrid["head_dim"] = 64;
  hybrid["layer_types"] = {"linear_attention", "full_attention", "mamba"};
  const SizePlan p = plan(hybrid, at({7}));
  CHECK(find(p, "bf16").bytes[0] == 7 * 2 * 256);
  CHECK(p.weights.empty());
  hybrid["layer_types"] = {"linear_attention", "linear_attention", "mamba"};
  const SizePlan none = plan(hybrid, at({7}));
  CHECK(find(none, "bf16").bytes[0] == 0);
  CHECK(Json::parse(format_size_json(none, "m", parse_model_config(hybrid.dump(), "c", ConfigUse::kSizes)))["kv"][0]["sizes"][0]["compression"].is_null());
}

TEST_CASE("options of a scheme are a row of their own") {
  SizeOptions options = at({100});
  options.scheme = KvSchemeOptions{};
  options.scheme->k_bits = 3;
  options.scheme->v_bits = 2;
  options.scheme->norm_dtype = DType::kF16;
  options.scheme->boundary_layers = 1;
  options.scheme->sinks = 4;
  options.scheme->layers[1] = {{3}, {2, 4}};
  const SizePlan p = plan(llama(), options);
  const CacheSize& given = find(p, "given");
  const std::uint64_t exact = 2 * 100 * 256;                                       // layers 0 and 2
  const std::uint64_t coded = 96 * (2 * 26 + 18 + 34) + 4 * 2 * 256;  // layer 1: K 24 + 2; V 16 + 2 and 32 + 2
  CHECK(given.bytes[0] == 2 * exact + coded);
  CHECK(given.text.find("exact/1") != std::string::npos);
  options.scheme->layers[1] = {{3, 3, 3}, {2}};  // more heads than there are is no error, fewer is
  options.scheme->layers[2] = {{3}, {}};
  CHECK_NOTHROW(plan(llama(), options));
  options.scheme->group_values = 48;
  CHECK_THROWS_AS(plan(llama(), options), Error);
}

TEST_CASE("weights by hand") {
  const SizePlan p = plan(llama(), at({1}));
  CHECK(p.parameters == 9481728);           // 3 (2818048 + 2 512) + 2 512000 + 512
  CHECK(p.quantized_parameters == 8454144);
  REQUIRE(p.weights.size() == 4);
  CHECK(p.weights[0].bytes == 2 * 9481728);
  CHECK(p.weights[1].quantized == 8454144 / 128 * 68);
  CHECK(p.weights[2].quantized == 8454144 / 128 * 52);
  CHECK(p.weights[3].quantized == 8454144 / 128 * 36);
  CHECK(p.weights[3].kept == 2 * (9481728 - 8454144));
  CHECK(plan(with(llama(), "tie_word_embeddings", true), at({1})).parameters == 9481728 - 512000);
  const SizePlan padded = plan(with(llama(), "intermediate_size", 1400), at({1}));
  CHECK(padded.weights[1].quantized == 3 * 68 * (4 * (512 + 512 + 128 + 128 + 2 * 1400) + 11 * 512));
}

TEST_CASE("published parameter counts") {
  const Json big = {{"model_type", "llama"}, {"hidden_size", 4096}, {"num_hidden_layers", 32}, {"num_attention_heads", 32},
                    {"num_key_value_heads", 8}, {"vocab_size", 128256}, {"intermediate_size", 14336},
                    {"max_position_embeddings", 131072}, {"tie_word_embeddings", false}};
  CHECK(plan(big, at({1})).parameters == 8030261248);  // Llama 3.1 8B
  Json mixtral = big;
  mixtral.update({{"model_type", "mixtral"}, {"vocab_size", 32000}, {"num_local_experts", 8}, {"num_experts_per_tok", 2}});
  CHECK(plan(mixtral, at({1})).parameters == 46702792704);  // Mixtral 8x7B
  CHECK(plan({{"model_type", "gemma2"}}, at({1})).parameters == 2614341888);  // Gemma 2 2B, all by default
}

TEST_CASE("every checkpoint of the tests is foreseen from its config.json, as packing plans it") {
  int seen = 0;
  for (const auto& entry : fs::directory_iterator(fs::path(TQ_TESTS_DIR) / "prefill")) {
    if (!fs::exists(entry.path() / "config.json")) continue;
    const std::string dir = entry.path().string();
    CAPTURE(dir);
    const SizePlan size = plan_size(read_model_config(dir, ConfigUse::kSizes), at({1}));
    const Checkpoint checkpoint = Checkpoint::open(dir);
    for (const WeightSize& form : size.weights) {
      WeightOptions options;
      options.bits = form.bits == 16 ? 4 : form.bits;
      std::uint64_t quantized = 0, kept = 0;
      for (const WeightItem& item : plan_weights(checkpoint, options).items) {
        const auto values = static_cast<std::uint64_t>(item.source->info->elements());
        (item.is_quantized() ? quantized : kept) += item.is_quantized() && form.bits < 16 ? item.bytes() : 2 * values;
      }
      CHECK(form.quantized == quantized);
      CHECK(form.kept == kept);
    }
    ++seen;
  }
  CHECK(seen >= 38);
}

TEST_CASE("sizes beyond 64 bits and lists without end are refused") {
  Json huge = with(with(llama(), "head_dim", 1 << 24), "num_attention_heads", 65536);
  huge["num_key_value_heads"] = 65536;
  CHECK_THROWS_AS(plan(huge, at({std::int64_t{1} << 31})), Error);
  CHECK_THROWS_AS(plan(with(deepseek(), "n_routed_experts", 1 << 23), at({1})), Error);
  Json heads = with(with(llama(), "model_type", "stablelm"), "qk_layernorm", true);
  heads.update({{"num_attention_heads", 65536}, {"num_key_value_heads", 65536}, {"num_hidden_layers", 4096}, {"head_dim", 8}});
  CHECK_THROWS_AS(plan(heads, at({1})), Error);
}

}  // namespace
}  // namespace tq
