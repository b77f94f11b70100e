// Rotary frequencies, bit for bit, against those of transformers (tests/prefill/make_frequencies.py).
#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "lib/error.h"
#include "lib/model/config.h"
#include "lib/model/rope.h"

namespace {

using Json = nlohmann::json;

Json model(const Json& rope) {
  return {{"model_type", "llama"}, {"hidden_size", 64}, {"num_hidden_layers", 1}, {"num_attention_heads", 1}, {"vocab_size", 10},
          {"intermediate_size", 8}, {"max_position_embeddings", 4096}, {"head_dim", 16}, {"rope_parameters", rope}};
}

tq::ModelConfig parse(const Json& json) { return tq::parse_model_config(json.dump(), "config.json"); }

std::uint32_t bits_of(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

TEST_CASE("frequencies are those of transformers, bit for bit") {
  std::ifstream file(TQ_TESTS_DIR "/prefill/frequencies.json");
  const Json cases = Json::parse(file);
  std::set<std::string> kinds;
  for (const Json& c : cases) {
    CAPTURE(c["rope_parameters"].dump());
    Json json = model(c["rope_parameters"]);
    json["head_dim"] = c["head_dim"];
    json["max_position_embeddings"] = c["max_position_embeddings"];
    const tq::RopeConfig rope = parse(json).ropes.at(0);
    double factor = 0;
    const std::vector<float> got = tq::rope_frequencies(rope, c["tokens"].get<std::int64_t>(), factor);
    CHECK(factor == doctest::Approx(c["attention_factor"].get<double>()).epsilon(1e-12));
    REQUIRE(got.size() == c["bits"].size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      CAPTURE(i);
      CHECK(bits_of(got[i]) == c["bits"][i].get<std::uint32_t>());
    }
    kinds.insert(c["rope_parameters"]["rope_type"].get<std::string>());
  }
  CHECK(kinds.size() == 6);
}

TEST_CASE("partial rotary counts in the families that have it") {
  const Json half = {{"rope_type", "default"}, {"rope_theta", 1e4}, {"partial_rotary_factor", 0.5}};
  Json json = model(half);
  CHECK(parse(json).ropes.at(0).dims == 16);  // llama's published code does not look at it
  json["rope_parameters"]["rope_type"] = "linear";
  json["rope_parameters"]["factor"] = 2.0;
  CHECK_THROWS_WITH_AS(parse(json), "config.json: rope_parameters.partial_rotary_factor: llama with a RoPE scaling turns whole heads",
                       tq::Error);
  json = model(half);
  json["model_type"] = "glm4";
  CHECK(parse(json).ropes.at(0).dims == 8);
  json["rope_parameters"].erase("partial_rotary_factor");
  CHECK(parse(json).ropes.at(0).dims == 8);  // glm4's default
  json["partial_rotary_factor"] = nullptr;
  CHECK(parse(json).ropes.at(0).dims == 16);
}

TEST_CASE("null, and what versions of transformers disagree about") {
  Json oss = model(nullptr);
  oss.update({{"model_type", "gpt_oss"}, {"num_local_experts", 4}, {"sliding_window", 8}});
  CHECK(parse(oss).ropes.at(0).kind == tq::RopeKind::kYarn);
  Json gemma = model(nullptr);
  gemma.update({{"model_type", "gemma3_text"}, {"num_key_value_heads", 1}, {"rope_scaling", {{"rope_type", "linear"}, {"factor", 8.0}}}});
  CHECK(parse(gemma).ropes.at(0).kind == tq::RopeKind::kLinear);
  CHECK(parse(gemma).ropes.at(1).kind == tq::RopeKind::kDefault);
  const auto refused = [](const Json& json, const char* words) {
    try {
      parse(json);
      FAIL_CHECK("was accepted: " << json.dump());
    } catch (const tq::Error& error) {
      CHECK(std::string(error.what()).find(words) != std::string::npos);
    }
  };
  gemma["rope_scaling"] = {{"type", "linear"}, {"factor", 8.0}};
  refused(gemma, "rope_scaling.type: is an older name");
  gemma["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
  gemma["rope_parameters"] = {{"full_attention", {{"rope_type", "default"}}}};
  refused(gemma, "beside rope_parameters");
  gemma.erase("rope_scaling");
  CHECK(parse(gemma).ropes.size() == 2);
  gemma["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 8.0}};
  refused(gemma, "full_attention and sliding_attention");
}

}  // namespace
