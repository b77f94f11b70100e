// A second pass over a text, on the tiny random models of tests/prefill.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "lib/cache/cache_codec.h"
#include "lib/model/generate.h"
#include "lib/verify/model_effect.h"
#include "lib/verify/scheme_hook.h"
#include "tests/io_helpers.h"

using namespace tq;
using namespace tq::test;

namespace {

using Ids = std::vector<std::int32_t>;

Model open_fixture(const std::string& name) { return Model::open((fs::path(TQ_TESTS_DIR) / "prefill" / name).string()); }

Ids make_ids(std::int64_t count, std::int64_t vocab, std::int64_t seed = 7) {
  Ids ids;
  for (std::int64_t i = 0; i < count; ++i) ids.push_back(static_cast<std::int32_t>((seed * i * i + 3 * i + seed) % vocab));
  return ids;
}

TextWindows make_windows(std::vector<Ids> ids) {
  const auto width = static_cast<std::int64_t>(ids.front().size());
  return {std::move(ids), "ids", width, 0};
}

EffectOptions random_weights(std::int64_t greedy = 0) {
  EffectOptions options;
  options.threads = 2;
  options.allow_random = true;
  options.greedy = greedy;
  return options;
}

KvSchemeOptions scheme_of(int bits) {
  KvSchemeOptions scheme;
  scheme.k_bits = scheme.v_bits = bits;
  return scheme;
}

/// Greedy decoding without a state: the whole text again for every token.
Ids generate_by_force(const Model& model, Ids ids, std::int64_t tokens) {
  const std::size_t prompt = ids.size();
  for (std::int64_t i = 0; i < tokens; ++i) {
    const std::vector<float> hidden = prefill(model, ids, {});
    const std::vector<float> logits = compute_logits(model, std::span(hidden).last(static_cast<std::size_t>(model.config().hidden)), 1, 1);
    ids.push_back(static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
  }
  return {ids.begin() + static_cast<std::ptrdiff_t>(prompt), ids.end()};
}

/// Adds what stands there of its values, K and V alike: round_trip doubles.
struct Doubling final : CacheMethod {
  std::int64_t recent = 0;
  explicit Doubling(std::int64_t kept) : recent(kept) {}
  std::string describe() const override { return "x 2"; }
  std::uint64_t bytes(std::int64_t, std::int64_t) const override { return 0; }
  void round_trip(std::span<const float> x, std::int64_t, std::int64_t, std::span<float> x_hat, const std::string&) const override {
    std::transform(x.begin(), x.end(), x_hat.begin(), [](float v) { return 2 * v; });
  }
  std::int64_t recent_tokens() const override { return recent; }
};

}  // namespace

TEST_CASE("a cache method is the codec, row by row, on any number of threads") {
  const auto backend = make_cpu_backend();
  const auto codec = std::make_shared<const Codec>(default_scheme(3, 16));
  std::vector<float> x(static_cast<std::size_t>(2 * 300 * 16));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i * i % 1013));
  std::vector<float> hat(x.size()), expected(x.size());
  CodedRows coded;
  encode_rows(*backend, *codec, DType::kF32, x.data(), 600, coded);
  decode_rows(*backend, *codec, coded, Decode::kRow, DType::kF32, expected.data());
  const auto cache = std::make_shared<const CacheCodec>(plain_scheme(codec->scheme()));
  const auto made = make_cache_method({cache}, *backend, 3);
  const CacheMethod& method = *made;
  method.round_trip(x, 2, 300, hat, "here");
  CHECK(hat == expected);
  CHECK(method.bytes(2, 300) == 600 * (6 + 4));
  CHECK(method.describe() == format_scheme(codec->scheme()));
  make_cache_method({cache}, *backend, 1, {std::make_shared<const CacheCodec>(cache->with_seed(43))})->round_trip(x, 2, 300, hat, "here");
  CHECK(hat != expected);
  x[16 * 301 + 2] = INFINITY;
  CHECK(error_of([&] { method.round_trip(x, 2, 300, hat, "here"); }).find("here: head 1, token 1") == 0);
  CHECK(error_of([&] { method.round_trip(x, 2, 299, hat, "here"); }).find("here: ") == 0);
}

TEST_CASE("the hook hands K and V to their caches, and keeps the newest tokens where they ask for it") {
  const auto make_kv = [] {
    LayerKv kv;
    kv.kv_heads = kv.heads = kv.tokens = 1;
    kv.k = {1, 2};
    kv.v = {3};
    return kv;
  };
  LayerKv kv = make_kv();
  make_cache_hook([](const LayerKv&) { return LayerCache{std::make_shared<Doubling>(0), nullptr}; })(kv);
  CHECK((kv.k == std::vector<float>{2, 4} && kv.v == std::vector<float>{3} && kv.recent == 0));
  kv = make_kv();
  make_cache_hook([](const LayerKv&) { return LayerCache{nullptr, std::make_shared<Doubling>(5)}; })(kv);
  CHECK((kv.k == kv.recent_k && kv.v == std::vector<float>{6} && kv.recent_v == std::vector<float>{3} && kv.recent == 5));
  kv = make_kv();
  make_cache_hook([](const LayerKv&) { return LayerCache{}; })(kv);
  CHECK((kv.k == std::vector<float>{1, 2} && kv.recent == 0));
  const LayerHook torn = make_cache_hook([](const LayerKv&) { return LayerCache{std::make_shared<Doubling>(5), std::make_shared<Doubling>(4)}; });
  CHECK(error_of([&] { torn(kv); }).find("layer 0: ") == 0);
}

TEST_CASE("a hook that changes nothing has no effect at all, and one that does has") {
  const Model model = open_fixture("llama");
  const ModelEffect effect(model, make_windows({make_ids(100, 320)}), random_weights(8));
  const EffectNumbers none = effect.measure(LayerHook());
  CHECK(none.tokens.kl.estimate == 0);
  CHECK(none.tokens.kl_max == 0);
  CHECK(none.tokens.perplexity_ratio.estimate == 1);
  CHECK(none.tokens.perplexity_ratio.high == 1);
  CHECK(none.tokens.top1.estimate == 1);
  CHECK(none.tokens.cosine_min == 1);
  CHECK(none.tokens.predictions == 99);
  CHECK(none.tokens.reference_perplexity == doctest::Approx(effect.perplexity()).epsilon(1e-9));
  REQUIRE(none.greedy);
  CHECK(none.greedy->tokens == 8);
  CHECK_FALSE(none.greedy->first_divergence);

  for (const char* name : {"llama-dynamic", "phi3-longrope-long", "deepseek-v2", "gpt-oss"}) {  // RoPE that knows the length
    CAPTURE(name);
    const Model other = open_fixture(name);
    const ModelEffect alone(other, make_windows({make_ids(24, other.config().vocab - 1)}), random_weights(8));
    const EffectNumbers same = alone.measure(LayerHook());
    CHECK(same.tokens.kl_max == 0);
    CHECK_FALSE(same.greedy->first_divergence);
  }
  const auto backend = make_cpu_backend();
  double before = 0;
  for (const int bits : {8, 4, 2}) {
    PrefillOptions second;
    second.hook = make_scheme_hook(scheme_of(bits), *backend, 2);
    const TokenSummary found = effect.measure(second.hook).tokens;
    CHECK(found.kl.estimate > before * 4);
    before = found.kl.estimate;
    const Ids& ids = effect.text().ids.front();
    const double expected = perplexity(token_losses(model, prefill(model, ids, second), ids, 1));
    CHECK(found.perplexity == doctest::Approx(expected).epsilon(1e-9));
  }
  for (const Control control : {Control::kZeros, Control::kOtherSeed, Control::kOneBit}) {
    CHECK(effect.measure(make_scheme_hook(scheme_of(4), *backend, 2, control)).tokens.kl.estimate > before / 4);
  }
  CHECK(error_of([&] { make_scheme_hook(scheme_of(4), *backend, 1, Control::kPermuted); }) != "no error");
}

TEST_CASE("windows are read on their own, and predictions are counted in each") {
  const Model model = open_fixture("llama");
  const auto backend = make_cpu_backend();
  const LayerHook hook = make_scheme_hook(scheme_of(3), *backend, 2);
  const Ids a = make_ids(80, 320), b = make_ids(40, 320, 11);
  const auto measure = [&](std::vector<Ids> ids) {
    return ModelEffect(model, make_windows(std::move(ids)), random_weights()).measure(hook).tokens;
  };
  const TokenSummary both = measure({a, b}), first = measure({a}), second = measure({b});
  CHECK(both.windows == 2);
  CHECK(both.predictions == 79 + 39);
  CHECK(both.kl.estimate == doctest::Approx((79 * first.kl.estimate + 39 * second.kl.estimate) / 118).epsilon(1e-12));
  CHECK(both.kl_max == std::max(first.kl_max, second.kl_max));
}

TEST_CASE("a reference that makes no sense is refused before anything is measured") {
  const Model model = open_fixture("llama");
  EffectOptions options;
  CHECK(error_of([&] { ModelEffect(model, make_windows({make_ids(127, 320)}), options); }).find("126 predictions") != std::string::npos);
  CHECK(error_of([&] { ModelEffect(model, make_windows({make_ids(200, 320)}), options); }).find("perplexity") != std::string::npos);
  options.allow_random = true;
  CHECK_FALSE(ModelEffect(model, make_windows({make_ids(200, 320)}), options).plausible());
  CHECK(error_of([&] { ModelEffect(model, make_windows({make_ids(500, 320)}), random_weights(13)); }).find("--greedy 13") == 0);
  CHECK(error_of([&] { ModelEffect(model, {}, random_weights()); }).find("no tokens") != std::string::npos);
  CHECK(error_of([&] { check_same_model(model, open_fixture("gemma2")); }).find("the family") != std::string::npos);
  CHECK(error_of([&] { check_same_model(model, model); }) == "no error");
}

TEST_CASE("decoding step by step is decoding by whole passes, whatever the attention") {
  for (const char* name : {"llama", "llama-yarn", "gemma2", "gpt-oss", "qwen2-moe-swa", "deepseek-v2", "phi3"}) {
    CAPTURE(name);
    const Model model = open_fixture(name);
    const Ids prompt = make_ids(20, model.config().vocab - 1);
    CHECK(generate_greedily(model, prompt, 12, {}) == generate_by_force(model, prompt, 12));
  }
  const Model latent = open_fixture("deepseek-v3");
  PrefillOptions options;
  options.mla_latent = true;
  const Ids prompt = make_ids(20, latent.config().vocab - 1);
  CHECK(generate_greedily(latent, prompt, 12, options) == generate_by_force(latent, prompt, 12));
}

TEST_CASE("a state takes what it was made for") {
  const Model model = open_fixture("llama");
  KvState state{10, 0, {}};
  PrefillOptions options;
  options.state = &state;
  const Ids ids = make_ids(10, 320);
  std::vector<float> hidden = prefill(model, std::span(ids).first(4), options);
  const std::vector<float> rest = prefill(model, std::span(ids).subspan(4), options);
  hidden.insert(hidden.end(), rest.begin(), rest.end());
  CHECK(state.tokens == 10);
  const std::vector<float> whole = prefill(model, ids, {});
  REQUIRE(hidden.size() == whole.size());
  for (std::size_t i = 0; i < whole.size(); ++i) REQUIRE(hidden[i] == doctest::Approx(whole[i]).epsilon(1e-4));
  CHECK(error_of([&] { prefill(model, std::span(ids).first(1), options); }).find("announced") != std::string::npos);
}

TEST_CASE("the first divergence is where decoding over the compressed cache really departs") {
  const auto backend = make_cpu_backend();
  int departed = 0;
  for (const char* name : {"llama", "gemma2", "gpt-oss", "qwen3"}) {
    for (const std::int64_t seed : {7, 11, 13}) {
      CAPTURE(name);
      CAPTURE(seed);
      const Model model = open_fixture(name);
      const Ids prompt = make_ids(30, model.config().vocab - 1, seed);
      const LayerHook hook = make_scheme_hook(scheme_of(3), *backend, 2);
      const ModelEffect effect(model, make_windows({prompt}), random_weights(12));
      const auto found = effect.measure(hook).greedy->first_divergence;
      PrefillOptions options;
      options.hook = hook;
      const Ids own = generate_greedily(model, prompt, 12, options);
      const auto [theirs, mine] = std::mismatch(effect.generated().begin(), effect.generated().end(), own.begin());
      const bool same = theirs == effect.generated().end();
      CHECK(found.has_value() == !same);
      if (found) CHECK(*found == mine - own.begin());
      departed += found && *found > 0 ? 1 : 0;
    }
  }
  CHECK(departed > 2);
}

TEST_CASE("each window begins with what the tokenizer puts first; a rest that predicts nothing is left out") {
  const Scratch scratch;
  const fs::path from = fs::path(TQ_TESTS_DIR) / "prefill" / "llama";
  fs::copy(from, scratch.dir / "model");
  put_file(scratch / "model/tokenizer.json", R"({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [9], "tokens": ["<s>"]}}},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "<s>": 9}, "merges": []}})");
  const Model model = Model::open(scratch / "model");
  PromptOptions prompt;
  prompt.text = "abcdabcdab";
  const TextWindows found = read_windows(model, prompt, 4);
  CHECK(found.ids == std::vector<Ids>{{9, 0, 1, 2}, {9, 3, 0, 1}, {9, 2, 3, 0}});  // the last b would stand alone
  CHECK(found.special == 1);
  CHECK(found.stride() == 3);
  CHECK(found.tokens() == 12);
  CHECK(found.predictions() == 9);
  prompt.tokens = 7;
  CHECK(read_windows(model, prompt, 4).ids == std::vector<Ids>{{9, 0, 1, 2}, {9, 3, 0}});
  prompt.tokens = 5;
  CHECK(read_windows(model, prompt, {}).ids == std::vector<Ids>{read_prompt(model, prompt).ids});
  prompt.tokens = 15;
  CHECK(error_of([&] { read_windows(model, prompt, 4); }).find("only 14 tokens") != std::string::npos);
  prompt.tokens = {};
  CHECK(error_of([&] { read_windows(model, prompt, 1); }).find("--window 1") != std::string::npos);
  CHECK(error_of([&] { read_windows(model, prompt, 513); }).find("--window 513") != std::string::npos);
  put_file(scratch / "ids", "5 6 7 8 9");
  prompt.text = {};
  prompt.token_ids = scratch / "ids";
  CHECK(read_windows(model, prompt, 3).ids == std::vector<Ids>{{5, 6, 7}, {8, 9}});
}
