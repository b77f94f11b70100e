// What a user asks of a cache, and the scheme of each head that follows; scheme files; and that
// pack_kv() writes to the byte what plan_kv() predicts of every remedy.
#include <doctest/doctest.h>

#include <algorithm>

#include "lib/cache/kv_options.h"
#include "lib/error.h"
#include "lib/io/kv_file.h"
#include "lib/pack/pack_kv.h"
#include "tests/codec_helpers.h"
#include "tests/io_helpers.h"

namespace tq {
namespace {

using test::error_of;
using test::get_file;
using test::put_file;
using test::Scratch;

/// Three layers: 3 heads of 20 tokens at dims 24 and 40, 1 head of 5 tokens, 2 heads of 1 token.
std::string write_dump(const Scratch& dir, DType dtype) {
  const std::vector<TensorSpec> specs = {{"k.0", dtype, {3, 20, 24}}, {"v.0", dtype, {3, 20, 40}},
                                         {"k.1", dtype, {1, 5, 33}},  {"v.1", dtype, {1, 5, 24}},
                                         {"k.4", dtype, {2, 1, 24}},  {"v.4", dtype, {2, 1, 24}}};
  SafetensorsWriter writer(specs, {});
  const std::string path = dir / "dump.safetensors";
  writer.create(path, true);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const std::int64_t count = writer.tensors()[i].elements();
    const std::vector<float> x = test::gaussian_rows(static_cast<std::uint32_t>(i + 1), count, 1);
    std::vector<std::byte> bytes(static_cast<std::size_t>(count) * size_of(dtype));
    convert_from_float(x.data(), count, dtype, bytes.data());
    writer.write(i, 0, bytes);
  }
  writer.commit();
  return path;
}

std::vector<KvSchemeOptions> remedies() {
  std::vector<KvSchemeOptions> all(9);
  all[0].center_keys = true;
  all[1].outlier_channels = 8;
  all[1].outlier_bits = 6;
  all[2].group_values = 8;
  all[2].v_bits = 2;
  all[3].sinks = 2;
  all[3].recent = 4;
  all[4].boundary_layers = 1;
  all[5].boundary_layers = 1;
  all[5].boundary_bits = 7;
  all[6].layers[0] = {.k = {3, 16, 8}, .v = {1, 2, 3}};
  all[7].layers[0] = {.k = {16}, .v = {}};
  all[7].qjl_keys = true;
  all[7].center_keys = true;
  all[8] = all[1];  // all at once
  all[8].center_keys = true;
  all[8].group_values = 8;
  all[8].sinks = 1;
  all[8].recent = 3;
  all[8].boundary_layers = 1;
  all[8].boundary_bits = 5;
  all[8].norm = NormMode::kLeastSquares;
  all[8].norm_dtype = DType::kF16;
  all[8].effort = 1;
  all[8].layers[0] = {.k = {4, 4, 16}, .v = {3, 16, 8}};
  return all;
}

TEST_CASE(
    "bytes predicted are bytes written, whatever the remedy, the type of the source and the "
    "threads") {
  const Scratch dir;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBf16}) {
    const KvDump dump = KvDump::open(write_dump(dir, dtype));
    const std::vector<KvSchemeOptions> all = remedies();
    for (std::size_t i = 0; i < all.size(); ++i) {
      CAPTURE(i);
      const KvPlan plan = plan_kv(dump, all[i]);
      std::string first;
      for (const int threads : {1, 2, 7}) {
        pack_kv(dump, plan, *make_cpu_backend(), dir / "out.tq3",
                {.threads = threads, .overwrite = true, .progress = {}});
        const std::string bytes = get_file(dir / "out.tq3");
        CHECK(bytes.size() == plan.total_bytes);
        if (first.empty()) first = bytes;
        CHECK(bytes == first);
      }
      const KvFile file = KvFile::open(dir / "out.tq3");
      CHECK_NOTHROW(file.check_payload(2));
      double bits = 0;
      double values = 0;
      for (const PackedLayer& layer : file.layers()) {
        for (const PackedTensor* tensor : {&layer.k, &layer.v}) {
          for (const PackedHeads& part : tensor->parts)
            CHECK(part.bytes() == part.scheme.bytes(part.heads, part.tokens));
          if (tensor == &layer.v) continue;
          for (const PackedHeads& part : tensor->parts)
            bits += part.scheme.value_bits(part.heads, part.tokens);
          values += static_cast<double>(tensor->rows() * tensor->dim);
        }
      }
      CHECK(plan.k_bits == doctest::Approx(bits / values));
      unpack_kv(file, std::nullopt, *make_cpu_backend(), dir / "back",
                {.threads = 3, .overwrite = true, .progress = {}});
      CHECK(KvDump::open(dir / "back").layers().size() == 3);
    }
  }
}

CacheScheme keys_of(const KvSchemeOptions& options, int layer, std::int64_t head = 0,
                    DType source = DType::kBf16) {
  return options.scheme_of(KvPart::kKeys, {layer, static_cast<std::size_t>(layer), 6}, head, 64,
                           source);
}

TEST_CASE("the scheme file wins over the boundary, the boundary over the bits") {
  KvSchemeOptions options;
  options.k_bits = 3;
  options.boundary_layers = 2;
  options.layers[0] = {.k = {5}, .v = {}};
  options.layers[1] = {.k = {}, .v = {2}};
  CHECK(keys_of(options, 0).rows.bits == 5);
  CHECK(keys_of(options, 1).kind == CacheKind::kExact);
  CHECK(keys_of(options, 2).rows.bits == 3);
  CHECK(keys_of(options, 3).rows.bits == 3);
  CHECK(keys_of(options, 4).kind == CacheKind::kExact);
  CHECK(keys_of(options, 5, 0, DType::kF16).exact_dtype == DType::kF16);
  CHECK(keys_of(options, 5, 0, DType::kF32).exact_dtype == DType::kBf16);
  options.boundary_bits = 8;
  CHECK(keys_of(options, 4).rows.bits == 8);
  options.boundary_layers = 100;
  CHECK(keys_of(options, 3).rows.bits == 8);
}

TEST_CASE(
    "layers with bits of their own have no outlier channels; groups are of V alone, means of K "
    "alone") {
  KvSchemeOptions options;
  options.outlier_channels = 16;
  options.outlier_bits = 6;
  options.group_values = 32;
  options.center_keys = true;
  options.layers[1] = {.k = {5}, .v = {}};
  CHECK(keys_of(options, 0).outlier_channels == 16);
  CHECK(keys_of(options, 0).rows.dim == 48);
  CHECK(keys_of(options, 0).center);
  CHECK(keys_of(options, 1).outlier_channels == 0);
  const CacheScheme values = options.scheme_of(KvPart::kValues, {0, 0, 6}, 0, 64, DType::kBf16);
  CHECK(values.kind == CacheKind::kGroup);
  CHECK_FALSE(values.center);
  const std::string message = error_of([&] {
    options.scheme_of(KvPart::kValues, {3, 3, 6}, 0, 72, DType::kBf16);
  });
  CHECK(message.find("layer 3: --group-values 32 does not divide the 72 channels") != message.npos);
  const std::string narrow = error_of([&] {
    options.scheme_of(KvPart::kKeys, {3, 3, 6}, 0, 20, DType::kBf16);
  });
  CHECK(narrow.find("layer 3: --outlier-channels 16 leaves 4 of 20") != narrow.npos);
}

TEST_CASE("options that never go together are wrong usage") {
  const auto refuse = [](auto change) {
    KvSchemeOptions options;
    change(options);
    CHECK_THROWS_AS(options.check(), UsageError);
  };
  refuse([](KvSchemeOptions& o) { o.qjl_keys = true, o.k_bits = 1; });
  refuse([](KvSchemeOptions& o) { o.qjl_keys = true, o.outlier_channels = 8, o.outlier_bits = 5; });
  refuse([](KvSchemeOptions& o) { o.outlier_channels = 8, o.outlier_bits = 4; });
  refuse([](KvSchemeOptions& o) { o.effort = 1; });
  CHECK_NOTHROW(KvSchemeOptions().check());
}

KvSchemeOptions read(const Scratch& dir, const std::string& text) {
  put_file(dir / "scheme.json", text);
  KvSchemeOptions options;
  read_scheme_file(dir / "scheme.json", options);
  return options;
}

TEST_CASE("a scheme file is read as it is written") {
  const Scratch dir;
  KvSchemeOptions options;
  options.k_bits = 3;
  options.v_bits = 16;
  options.layers[0] = {.k = {4}, .v = {2, 3, 16}};
  options.layers[7] = {.k = {1, 8}, .v = {}};
  const KvSchemeOptions back = read(dir, format_scheme_file(options));
  CHECK(back.k_bits == 3);
  CHECK(back.v_bits == 16);
  CHECK(back.layers == options.layers);
  CHECK(read(dir, "{}").layers.empty());
  CHECK(read(dir, "{\"v_bits\": 2}").k_bits == 4);
}

TEST_CASE("a scheme file with anything else in it is refused, in one line that names it") {
  const Scratch dir;
  const std::string deep = std::string(200000, '[') + std::string(200000, ']');
  const std::vector<std::string> refused = {
      "",
      "[]",
      "null",
      "{",
      "{\"layers\": {}}",
      "{\"layers\": null}",
      "{\"layers\": [], \"layers\": []}",
      "{\"k_bit\": 3}",
      "{\"k_bits\": 0}",
      "{\"k_bits\": 9}",
      "{\"k_bits\": 17}",
      "{\"k_bits\": -1}",
      "{\"k_bits\": 3.0}",
      "{\"k_bits\": \"3\"}",
      "{\"k_bits\": null}",
      "{\"k_bits\": [3]}",
      "{\"k_bits\": 18446744073709551615}",
      "{\"k_bits\": " + deep + "}",
      deep,
      "{\"k_bits\": \"" + std::string(100000, 'x') + "\\n\"}",
      "{\"layers\": [3]}",
      "{\"layers\": [{}]}",
      "{\"layers\": [{\"layer\": 0}]}",
      "{\"layers\": [{\"k\": 3}]}",
      "{\"layers\": [{\"layer\": -1, \"k\": 3}]}",
      "{\"layers\": [{\"layer\": 2147483648, \"k\": 3}]}",
      "{\"layers\": [{\"layer\": 0.5, \"k\": 3}]}",
      "{\"layers\": [{\"layer\": 0, \"q\": 3}]}",
      "{\"layers\": [{\"layer\": 0, \"k\": []}]}",
      "{\"layers\": [{\"layer\": 0, \"k\": [[3]]}]}",
      "{\"layers\": [{\"layer\": 0, \"k\": [3, null]}]}",
      "{\"layers\": [{\"layer\": 0, \"k\": 3, \"k\": 4}]}",
      "{\"layers\": [{\"layer\": 0, \"k\": {}}]}",
      "{\"layers\": [{\"layer\": 0, \"k\": 3}, {\"layer\": 0, \"v\": 3}]}",
      "{\"\xff\": 1}"};
  for (const std::string& text : refused) {
    CAPTURE(text.substr(0, 60));
    const std::string message = error_of([&] { read(dir, text); });
    CHECK(message.starts_with(dir / "scheme.json"));
    CHECK(message.find('\n') == message.npos);
    CHECK(message.size() < 1000);
  }
}

TEST_CASE("a scheme file for other layers or another number of heads is refused") {
  KvSchemeOptions options;
  options.layers[4] = {.k = {3, 4}, .v = {2}};
  CHECK_NOTHROW(options.check_layers({{0, 1}, {4, 2}}, "dump"));
  for (const std::int64_t heads : {1, 3}) {
    const std::string message = error_of([&] { options.check_layers({{4, heads}}, "dump"); });
    CHECK(message.starts_with("dump: layer 4 has "));
    CHECK(message.find("bits to 2 of K") != message.npos);
  }
  CHECK(error_of([&] {
          options.check_layers({{0, 2}}, "dump");
        }).starts_with("dump: has no layer 4"));
}

}  // namespace
}  // namespace tq
