// config.json: what is read of it, and what is refused.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "lib/error.h"
#include "lib/model/config.h"

namespace {

using Json = nlohmann::json;

Json llama() {
  return {{"model_type", "llama"}, {"hidden_size", 64}, {"num_hidden_layers", 3}, {"num_attention_heads", 4},
          {"vocab_size", 100}, {"intermediate_size", 96}, {"max_position_embeddings", 512}};
}

Json with(Json json, const char* key, Json value) {
  json[key] = std::move(value);
  return json;
}

Json merged(Json json, const Json& more) {
  json.update(more);
  return json;
}

tq::ModelConfig parse(const Json& json) { return tq::parse_model_config(json.dump(), "config.json"); }

void check_refused(const Json& json, std::string_view words) {
  CAPTURE(json.dump());
  try {
    parse(json);
    FAIL_CHECK("was accepted");
  } catch (const tq::Error& error) {
    CHECK(std::string_view(error.what()).starts_with("config.json: "));
    CHECK(std::string_view(error.what()).find(words) != std::string_view::npos);
  }
}

TEST_CASE("a plain configuration, and what it leaves out") {
  const tq::ModelConfig c = parse(llama());
  CHECK(c.family->model_type == "llama");
  CHECK(c.layers.size() == 3);
  CHECK(c.kv_heads == 4);
  CHECK(c.head_dim == 16);
  CHECK(c.attention_scale == doctest::Approx(0.25));
  CHECK(c.context == 512);
  CHECK(c.ropes.at(0).theta == 10000.0);
  CHECK(c.ropes.at(0).dims == 16);
  CHECK_FALSE(c.tied.has_value());
  CHECK_FALSE(c.layers[0].window.has_value());
  CHECK(parse(with(llama(), "head_dim", 24)).head_dim == 24);
  CHECK(parse(with(llama(), "head_dim", nullptr)).head_dim == 16);
  CHECK(parse(with(llama(), "sliding_window", 8)).layers[0].window == std::nullopt);  // not of this family
}

TEST_CASE("every needed key is missed by name") {
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size",
                          "max_position_embeddings"}) {
    Json json = llama();
    json.erase(key);
    check_refused(json, std::string(key) + ": is missing");
    check_refused(with(llama(), key, 0), std::string(key) + ": must be an integer from 1");
    check_refused(with(llama(), key, -4), key);
    check_refused(with(llama(), key, "64"), key);
    check_refused(with(llama(), key, 1e30), key);
  }
  Json nameless = llama();
  nameless.erase("model_type");
  check_refused(nameless, "model_type");
}

TEST_CASE("what tq does not have is refused by name") {
  check_refused(with(llama(), "model_type", "mamba"), "'mamba'");
  check_refused(with(llama(), "quantization_config", {{"quant_method", "mxfp4"}}), "mxfp4");
  check_refused(with(llama(), "quantization_config", {{"quant_method", "fp8"}}), "fp8");
  check_refused(with(llama(), "quantization_config", Json::object()), "quantized, it does not say how");
  check_refused(with(llama(), "quantization_config", {{"quant_method", 4}}), "quantized, it does not say how");
  check_refused(with(llama(), "compression_config", {{"format", "pack"}}), "compression_config");
  check_refused(with(llama(), "hidden_act", "laurel"), "laurel");
  check_refused(with(llama(), "rope_scaling", {{"type", "mrope"}}), "mrope");
  check_refused(with(llama(), "rope_scaling", {{"type", "linear"}}), "factor");
  check_refused(with(llama(), "rope_scaling", {{"type", "linear"}, {"factor", -1}}), "factor");
  check_refused(with(llama(), "rope_scaling", "linear"), "rope_scaling");
  check_refused(with(llama(), "use_bidirectional_attention", true), "causal");
  check_refused(with(llama(), "num_kv_shared_layers", 2), "share");
  check_refused(with(llama(), "num_key_value_heads", 3), "divide");
  check_refused(with(llama(), "num_attention_heads", 5), "multiple");
  check_refused(with(llama(), "partial_rotary_factor", 1.5), "partial_rotary_factor");
  check_refused(Json::array(), "JSON object");
  CHECK_THROWS_AS(tq::parse_model_config("{", "config.json"), tq::Error);
  CHECK_THROWS_AS(tq::parse_model_config(std::string(100000, '['), "config.json"), tq::Error);
}

TEST_CASE("layer types and windows") {
  const Json qwen = merged(llama(), {{"model_type", "qwen2"}, {"sliding_window", 16}, {"max_window_layers", 1}});
  CHECK_FALSE(parse(qwen).layers[2].window.has_value());  // use_sliding_window is off
  const tq::ModelConfig on = parse(with(qwen, "use_sliding_window", true));
  CHECK_FALSE(on.layers[0].window.has_value());
  CHECK(on.layers[1].window == 16);
  CHECK(parse(merged(qwen, {{"use_sliding_window", true}, {"max_window_layers", 0}})).layers[0].window == 16);
  CHECK_FALSE(parse(with(qwen, "max_window_layers", 0)).layers[0].window.has_value());
  check_refused(with(qwen, "max_window_layers", -1), "max_window_layers");
  const Json slides = {"full_attention", "sliding_attention", "full_attention"};
  CHECK(parse(merged(qwen, {{"use_sliding_window", true}, {"layer_types", slides}})).layers[1].window == 16);
  check_refused(with(qwen, "layer_types", slides), "layer 1 slides, and use_sliding_window is off");
  check_refused(merged(qwen, {{"layer_types", slides}, {"use_sliding_window", true}, {"sliding_window", nullptr}}), "no sliding_window");
  CHECK_FALSE(parse(with(qwen, "layer_types", Json(3, "full_attention"))).layers[1].window.has_value());
  const Json gemma = merged(llama(), {{"model_type", "gemma3_text"}, {"num_hidden_layers", 7}, {"sliding_window", 5},
                                      {"rope_local_base_freq", 500.0}, {"head_dim", 16}});
  const tq::ModelConfig g = parse(gemma);
  CHECK(g.layers[0].window == 5);
  CHECK(g.layers[0].rope_set == 1);
  CHECK_FALSE(g.layers[5].window.has_value());
  CHECK(g.layers[5].rope_set == 0);
  CHECK(g.ropes.at(0).theta == 1e6);
  CHECK(g.ropes.at(1).theta == 500.0);
  CHECK(g.attention_scale == doctest::Approx(1.0 / 16));
  CHECK(parse(with(gemma, "sliding_window_pattern", 2)).layers[1].window == std::nullopt);
  check_refused(with(gemma, "layer_types", {"full_attention"}), "entries");
  check_refused(with(gemma, "layer_types", Json(7, "chunked_attention")), "chunked_attention");
  CHECK(parse(merged(llama(), {{"model_type", "mistral"}})).layers[0].window == 4096);
  CHECK_FALSE(parse(merged(llama(), {{"model_type", "mistral"}, {"sliding_window", nullptr}})).layers[0].window.has_value());
}

TEST_CASE("a text model within another") {
  const Json nested = {{"model_type", "llava"}, {"text_config", llama()}, {"tie_word_embeddings", true}};
  CHECK(parse(nested).model_type == "llama");
  CHECK(parse(nested).tied == true);
  check_refused({{"model_type", "llava"}, {"text_config", {{"model_type", "strange"}}}}, "'strange'");
  check_refused(with(nested, "is_encoder_decoder", true), "decoders only");
  check_refused(with(nested, "num_kv_shared_layers", 2), "share");
  check_refused(with(nested, "compression_config", {{"quant_method", "awq"}}), "'awq'");
}

TEST_CASE("experts") {
  const Json mixtral = merged(llama(), {{"model_type", "mixtral"}, {"num_local_experts", 8}, {"num_experts_per_tok", 2}});
  const tq::ModelConfig c = parse(mixtral);
  CHECK(c.moe.value().experts == 8);
  CHECK(c.moe.value().renormalize);
  CHECK(c.layers[0].sparse);
  check_refused(with(mixtral, "num_experts_per_tok", 9), "num_experts_per_tok");
  const Json deepseek = merged(llama(), {{"model_type", "deepseek_v3"}, {"kv_lora_rank", 16}, {"qk_nope_head_dim", 8},
                                         {"qk_rope_head_dim", 8}, {"v_head_dim", 12}, {"n_routed_experts", 8}, {"n_group", 4},
                                         {"topk_group", 2}, {"num_experts_per_tok", 3}, {"moe_intermediate_size", 8},
                                         {"first_k_dense_replace", 1}});
  CHECK(parse(deepseek).head_dim == 16);
  CHECK_FALSE(parse(deepseek).layers[0].sparse);
  CHECK(parse(deepseek).layers[1].sparse);
  CHECK(parse(deepseek).moe->renormalize);
  CHECK_FALSE(parse(with(deepseek, "norm_topk_prob", nullptr)).moe->renormalize);
  CHECK(parse(deepseek).rope_pairs == tq::RopePairs::kNeighboursToHalves);
  CHECK(parse(with(deepseek, "rope_interleave", nullptr)).rope_pairs == tq::RopePairs::kHalves);
  check_refused(with(deepseek, "topk_group", 1), "n_group");
  check_refused(with(deepseek, "n_group", 3), "n_group");
  check_refused(with(deepseek, "scoring_func", "softmax"), "scoring_func");
  check_refused(with(deepseek, "moe_layer_freq", 2), "moe_layer_freq");
}

TEST_CASE("the longest prompt") {
  const auto context = [](const Json& scaling) { return parse(with(llama(), "rope_scaling", scaling)).context; };
  CHECK(context({{"type", "dynamic"}, {"factor", 4.0}}) == 2048);
  CHECK(context({{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 128}}) == 512);
  CHECK(context({{"rope_type", "yarn"}, {"factor", 8.0}, {"original_max_position_embeddings", 128}}) == 1024);
}

}  // namespace
