// Tensors of a checkpoint as float32 rows: any piece is the same as that piece of the whole, and shapes that a checkpoint
// does not tell come from the configuration or are refused.
#include <doctest/doctest.h>

#include <cmath>

#include "lib/measure/error_stats.h"
#include "lib/pack/weight_reader.h"
#include "lib/pack/weight_shapes.h"
#include "lib/pack/weight_summary.h"
#include "tests/codec_helpers.h"
#include "tests/io_helpers.h"

namespace tq {
namespace {

using test::check_contains;
using test::error_of;

const std::string kWeights = std::string(TQ_TESTS_DIR) + "/weights/";

std::vector<float> read_whole(const WeightReader& reader, const WeightReader::Tensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.values()));
  reader.read_rows(tensor, 0, tensor.rows(), values.data());
  return values;
}

TEST_CASE("any piece of a tensor is that piece of the whole, padded groups and kept tensors alike") {
  const auto backend = make_cpu_backend();
  for (const char* name : {"llama", "llama-3bit", "llama-4bit", "moe-3bit"}) {
    const WeightReader reader = WeightReader::open(kWeights + name, *backend);
    for (const WeightReader::Tensor& tensor : reader.tensors()) {
      const std::vector<float> whole = read_whole(reader, tensor);
      const auto total = static_cast<std::int64_t>(whole.size());
      for (const std::int64_t first : {std::int64_t{0}, std::int64_t{1}, total / 3, total - 1}) {
        for (const std::int64_t count : {std::int64_t{0}, std::int64_t{1}, std::int64_t{129}, total / 2}) {
          if (first + count > total) continue;
          std::vector<float> piece(static_cast<std::size_t>(count) + 1, 7.0f);
          reader.read_values(tensor, first, count, piece.data());
          CHECK(std::equal(piece.begin(), piece.end() - 1, whole.begin() + first));
          CHECK(piece.back() == 7.0f);  // nothing beyond what was asked for
        }
      }
      std::vector<float> row(static_cast<std::size_t>(tensor.row_length()));
      reader.read_rows(tensor, tensor.rows() - 1, 1, row.data());
      CHECK(std::equal(row.begin(), row.end(), whole.end() - tensor.row_length()));
      check_contains(error_of([&] { reader.read_rows(tensor, tensor.rows(), 1, row.data()); }), tensor.name);
      check_contains(error_of([&] { reader.read_rows(tensor, -1, 1, row.data()); }), "were wanted");
      check_contains(error_of([&] { reader.read_values(tensor, 1, total, row.data()); }), "were wanted");
    }
  }
}

TEST_CASE("the published converter's tensors: shapes without padding, the codebook's distortion, another seed is noise") {
  const auto backend = make_cpu_backend();
  const WeightReader source = WeightReader::open(kWeights + "llama", *backend);
  for (const int bits : {3, 4}) {
    const std::string dir = kWeights + "llama-" + std::to_string(bits) + "bit";
    const WeightReader packed = WeightReader::open(dir, *backend);
    const WeightReader other = WeightReader::open(dir, *backend, 43);
    CHECK(packed.tq3() != nullptr);
    CHECK_FALSE(packed.has_hashes());
    CHECK(packed.find("nothing") == nullptr);
    int quantized = 0;
    for (const WeightReader::Tensor& tensor : packed.tensors()) {
      const WeightReader::Tensor* original = source.find(tensor.name);
      REQUIRE(original != nullptr);
      CHECK(tensor.shape == original->shape);
      const std::vector<float> x = read_whole(source, *original);
      const std::vector<float> y = read_whole(packed, tensor);
      const auto length = static_cast<int>(tensor.row_length());
      if (tensor.bits == 0) {
        CHECK(x == y);  // the slices' kept values fit F16
        continue;
      }
      ++quantized;
      const double ratio = test::measure_error(x, y, length).relative_mse() / tensor.quantized->codec->distortion();
      CHECK(ratio > 0.92);
      CHECK(ratio < 1.06);
      CHECK(test::measure_error(x, read_whole(other, *other.find(tensor.name)), length).relative_mse() > 1.6);
    }
    CHECK(quantized == 3);
    const WeightSummary summary = summarize_checkpoint(packed);
    CHECK(summary.kinds.size() == 2);
    CHECK(summary.kinds[0].bits == bits);
    CHECK(summary.kinds[0].tensors == 3);
    CHECK(summary.total.source_bytes == 2 * summary.total.values);
    CHECK(summary.kinds[0].stored_bytes + summary.kinds[1].stored_bytes == summary.total.stored_bytes);
  }
}

TEST_CASE("shapes that the published converter does not tell") {
  const Codec codec(tq3_scheme(3, 128));
  const auto tensor = [&](const char* name, std::int64_t rows, std::int64_t groups) {
    Tq3Tensor t;
    t.name = name;
    t.bits = 3;
    t.rows = rows;
    t.groups = groups;
    t.codec = std::make_shared<const Codec>(codec);
    return t;
  };
  ModelDimensions d;
  d.hidden = 192;
  d.attention = 160;
  d.intermediate = 320;
  d.expert_intermediate = 140;
  d.shared_intermediate = 200;
  d.experts = 4;
  using Shape = std::vector<std::int64_t>;
  CHECK(restore_shape(tensor("a.q_proj.weight", 8, 2), d, "f") == Shape{8, 192});
  CHECK(restore_shape(tensor("a.o_proj.weight", 8, 2), d, "f") == Shape{8, 160});
  CHECK(restore_shape(tensor("a.mlp.down_proj.weight", 8, 3), d, "f") == Shape{8, 320});
  CHECK(restore_shape(tensor("a.experts.0.down_proj.weight", 8, 2), d, "f") == Shape{8, 140});
  CHECK(restore_shape(tensor("a.shared_expert.down_proj.weight", 8, 2), d, "f") == Shape{8, 200});
  CHECK(restore_shape(tensor("a.experts.gate_up_proj", 8, 2), d, "f") == Shape{4, 2, 192});
  CHECK(restore_shape(tensor("a.experts.down_proj", 8, 2), d, "f") == Shape{4, 2, 140});
  CHECK(restore_shape(tensor("a.odd.weight", 8, 3), d, "f") == Shape{8, 320});  // the only length that fits
  d.others = {600};
  CHECK(restore_shape(tensor("vision.q_proj.weight", 8, 5), d, "f") == Shape{8, 600});
  check_contains(error_of([&] { restore_shape(tensor("a.q_proj.weight", 8, 3), d, "f"); }), "their length is 192");
  check_contains(error_of([&] { restore_shape(tensor("a.q_proj.weight", 8, 5), d, "f"); }), "a.q_proj.weight");
  check_contains(error_of([&] { restore_shape(tensor("a.experts.down_proj", 9, 2), d, "f"); }), "4 experts");

  std::vector<float> rows(2 * 256);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = i % 256 < 192 ? 1.0f : 0.1f;
  check_padding(rows, 2, 192, tensor("t", 2, 2), "f");
  check_contains(error_of([&] { check_padding(rows, 2, 150, tensor("t", 2, 2), "f"); }), "not padding");
  check_contains(error_of([&] { check_padding(rows, 2, 220, tensor("t", 2, 2), "f"); }), "not padding");
  check_padding(std::vector<float>(512, 0.0f), 2, 192, tensor("t", 2, 2), "f");
}

TEST_CASE("tensors that are no floats, scalars, vectors, and shapes without values") {
  const test::Scratch scratch;
  SafetensorsWriter writer({{"i", DType::kI64, {2}}, {"s", DType::kF32, {}}, {"e", DType::kBf16, {0, 5}}, {"z", DType::kF16, {4, 0}}});
  writer.create(scratch / "model.safetensors", false);
  const float seven = 7;
  writer.write(0, 0, std::as_bytes(std::span("0123456789abcde")));
  writer.write(1, 0, std::as_bytes(std::span(&seven, 1)));
  writer.commit();
  const auto backend = make_cpu_backend();
  const WeightReader reader = WeightReader::open(scratch.dir.string(), *backend);
  float out = 0;
  check_contains(error_of([&] { reader.read_rows(*reader.find("i"), 0, 1, &out); }), "is I64");
  reader.read_rows(*reader.find("s"), 0, 1, &out);
  CHECK(out == 7.0f);
  CHECK(reader.find("s")->rows() == 1);
  CHECK(reader.find("e")->rows() == 0);
  CHECK(reader.find("z")->rows() == 4);
  reader.read_rows(*reader.find("e"), 0, 0, &out);
  reader.read_rows(*reader.find("z"), 0, 4, &out);
  reader.check_hashes(2);  // there are none
}

}  // namespace
}  // namespace tq
