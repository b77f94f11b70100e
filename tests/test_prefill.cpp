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

const fs::path kFixtures = fs::path(TQ_SOURCE_DIR) / "tests" / "prefill";

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
  CHECK(model.layout().unused.empty());
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

}  // namespace
