// The forward pass against transformers: every directory of tests/prefill holds a tiny random model
// and what transformers computed with it in float32 (make_fixtures.py says how).
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>
#include <string>

#include "lib/convert.h"
#include "lib/io/safetensors.h"
#include "lib/model/prefill.h"

namespace {

namespace fs = std::filesystem;
using Floats = std::vector<float>;

const fs::path kFixtures = fs::path(TQ_TESTS_DIR) / "prefill";

std::vector<std::string> fixtures() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kFixtures)) {
    if (fs::exists(entry.path() / "expected.safetensors")) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

Floats read_floats(const tq::SafetensorsFile& file, const std::string& name) {
  const tq::TensorInfo& info = file.at(name);
  Floats out(static_cast<std::size_t>(info.elements()));
  std::vector<std::byte> raw(info.bytes);
  file.read(info, 0, raw);
  tq::convert_to_float(info.dtype, raw.data(), info.elements(), out.data());
  return out;
}

std::vector<std::int32_t> read_ids(const tq::SafetensorsFile& file) {
  const tq::TensorInfo& info = file.at("input_ids");
  std::vector<std::int32_t> ids(static_cast<std::size_t>(info.elements()));
  file.read(info, 0, std::as_writable_bytes(std::span(ids)));
  return ids;
}

double rms(const Floats& x) {
  double sum = 0;
  for (const float v : x) sum += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(sum / static_cast<double>(x.size()));
}

/// The largest difference over the RMS of what is expected.
double error(const Floats& got, const Floats& expected) {
  REQUIRE(got.size() == expected.size());
  double most = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(got[i]) - static_cast<double>(expected[i]));
    most = std::max(most, std::isfinite(difference) ? difference : INFINITY);
  }
  return most / rms(expected);
}

struct Errors {
  double q = 0, k = 0, v = 0, logits = 0;
  int layers = 0;
};

Errors compare(const std::string& name, bool mla_latent = false) {
  const std::string dir = (kFixtures / name).string();
  const tq::SafetensorsFile expected = tq::SafetensorsFile::open(dir + "/expected.safetensors");
  const tq::Model model = tq::Model::open(dir);
  const std::vector<std::int32_t> ids = read_ids(expected);
  Errors errors;
  tq::PrefillOptions options;
  options.threads = 2;
  options.mla_latent = mla_latent;
  options.hook = [&](tq::LayerKv& kv) {
    const std::string layer = "." + std::to_string(kv.layer);
    ++errors.layers;
    if (mla_latent) return;
    errors.q = std::max(errors.q, error(kv.q, read_floats(expected, "q" + layer)));
    errors.k = std::max(errors.k, error(kv.k, read_floats(expected, "k" + layer)));
    errors.v = std::max(errors.v, error(kv.v, read_floats(expected, "v" + layer)));
  };
  const Floats hidden = tq::prefill(model, ids, options);
  const Floats logits = tq::compute_logits(model, hidden, static_cast<std::int64_t>(ids.size()), 2);
  errors.logits = error(logits, read_floats(expected, "logits"));
  CHECK(errors.layers == static_cast<int>(model.config().layers.size()));
  return errors;
}

TEST_CASE("q, k, v and logits are those of transformers, family by family") {
  for (const std::string& name : fixtures()) {
    CAPTURE(name);
    const Errors e = compare(name);
    MESSAGE(name << ": q " << e.q << ", k " << e.k << ", v " << e.v << ", logits " << e.logits);
    CHECK(e.q < 1e-4);
    CHECK(e.k < 1e-4);
    CHECK(e.v < 1e-4);
    CHECK(e.logits < 1e-3);
  }
}

TEST_CASE("latent attention as it is cached gives the same logits") {
  for (const char* name : {"deepseek-v2", "deepseek-v2-grouped", "deepseek-v3", "deepseek-v3-halves"}) {
    CAPTURE(name);
    CHECK(compare(name, true).logits < 1e-5);
  }
}

TEST_CASE("a hook's keys and values are what attention reads") {
  const tq::Model model = tq::Model::open((kFixtures / "llama").string());
  const std::vector<std::int32_t> ids = {5, 6, 7, 8, 9, 10};
  tq::PrefillOptions options;
  const Floats plain = tq::prefill(model, ids, options);
  options.hook = [](tq::LayerKv& kv) {
    kv.recent_k = kv.k;
    kv.recent_v = kv.v;
    kv.recent = kv.tokens;
    std::fill(kv.k.begin(), kv.k.end(), 0.0f);  // older than all
  };
  CHECK(error(tq::prefill(model, ids, options), plain) < 1e-6);
  options.hook = [](tq::LayerKv& kv) { std::fill(kv.v.begin(), kv.v.end(), 0.0f); };
  CHECK(error(tq::prefill(model, ids, options), plain) > 0.1);
  options.hook = nullptr;
  options.threads = 3;
  CHECK(tq::prefill(model, ids, options) == plain);  // whatever the threads
}

TEST_CASE("the loss of a token is -ln of its softmax") {
  const tq::Model model = tq::Model::open((kFixtures / "gemma2").string());
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 70; ++i) ids.push_back((i * 37) % 320);  // more than one block of 64
  const Floats hidden = tq::prefill(model, ids, {});
  const std::vector<double> losses = tq::token_losses(model, hidden, ids, 2);
  const Floats logits = tq::compute_logits(model, hidden, 70, 2);
  REQUIRE(losses.size() == 69);
  double sum = 0;
  for (std::size_t t = 0; t < 69; ++t) {
    double total = 0;
    for (std::size_t i = 0; i < 320; ++i) total += std::exp(static_cast<double>(logits[t * 320 + i]));
    CHECK(losses[t] == doctest::Approx(std::log(total) - static_cast<double>(logits[t * 320 + static_cast<std::size_t>(ids[t + 1])])));
    sum += losses[t];
  }
  CHECK(tq::perplexity(losses) == doctest::Approx(std::exp(sum / 69)));
}

}  // namespace
