// Raw dumps of other systems that are refused, and with which words.
#include "tests/foreign_layout_helpers.h"

namespace tq {
namespace {

using namespace test;

TEST_CASE("files that are refused, with the byte offset") {
  const Scratch scratch;
  const std::string path = scratch / "raw";
  const auto refusal = [&](const std::string& bytes, const KvImportOptions& options) {
    put_file(path, bytes);
    const std::string said = error_of([&] {
      import_kv(open_import(path, options), *make_cpu_backend(), scratch / "out", {2, false, {}});
    });
    check_contains(said, path);
    CHECK(scratch.count() == 1);  // nothing was left behind
    return said;
  };
  const std::string row = from_hex(kArBits4);
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();

  check_contains(refusal("", options_of("ar-slot", 4)), "empty");
  check_contains(refusal(row + f32(1), options_of("ar-slot", 4)),
                 "68 bytes are left over at byte 0");
  check_contains(refusal(std::string(512 + 511, '\0'), options_of("ac-page", 4, 2)),
                 "511 bytes are left over at byte 512");
  for (const float bad : {nan, infinity, -1.0f}) {
    check_contains(refusal(row + f32(1) + row + f32(bad), options_of("ar-slot", 4)),
                   "byte 132: head 0, token 0: the norm is");
    check_contains(refusal(row + row + f16(1) + f16(bad), options_of("bitstream", 4)),
                   "byte 130: head 0, token 1: the norm is");
    std::string page(1024, '\0');
    page.replace(512 + 2 * 128 + 8 + 4, 4, f32(bad));
    check_contains(refusal(page, options_of("ac-page", 4, 2)),
                   "byte 780: head 1, token 1: the norm is");
  }
  std::string eights(64, '\0');
  eights[5] = '\x80';  // the high nibble of byte 5: channel 11 low first, 10 high first
  KvImportOptions three = options_of("nibble-low", 3);
  three.rotation = RotationKind::kQr;
  three.seed = 1;
  three.codebook = "beta-d128-b3";
  check_contains(refusal(std::string(64, '\0') + eights + f32(1) + f32(1), three),
                 "byte 69: head 0, token 1: the code of channel 11");
  check_contains(refusal(eights + f32(1) + std::string(68 + 120, '\0'), options_of("ac-page", 3)),
                 "channel 10");

  KvImportOptions more = options_of("ar-slot", 4);
  more.shape.tokens = 2;
  check_contains(refusal(row + f32(1) + row + f32(1), more), "hold 1 tokens");
  KvImportOptions fewer = options_of("bitstream", 4);
  fewer.shape.tokens = 1;
  check_contains(refusal(row + row + f16(1) + f16(1), fewer), "hold 2 tokens");

  KvImportOptions half = options_of("ar-slot", 4);
  half.dtype = DType::kF16;
  check_contains(refusal(row + f32(1) + row + f32(1e30f), half),
                 "v.0: head 0, token 0: a reconstructed value is too large");
  half.dtype = DType::kF32;
  CHECK(import_bytes(row + f32(1) + row + f32(1e30f), half).size() == 2 * kDim);
}

TEST_CASE("slots beyond --tokens are not looked at") {
  KvImportOptions options = options_of("ar-slot", 4);
  options.shape.tokens = 1;
  const std::string slot = from_hex(kArBits4) + f32(kNorm);
  const std::string rubbish(68, '\xff');
  check_near(golden_cosine(slot + rubbish + slot + rubbish, options), 0.994736);
}

TEST_CASE("a codebook file: both keys, and what is refused") {
  const Scratch scratch;
  const std::string book = scratch / "book.json";
  KvImportOptions options = options_of("vj-paged", 2);
  std::string row(32, '\x1b');
  const auto import_with = [&](const std::string& text) {
    put_file(book, text);
    options.codebook = book;
    return import_bytes(row + f32(2), options);
  };
  CHECK(import_with(R"({"centroids": [-0.2, -0.1, 0, 0.3], "d": 128})") ==
        import_with(R"({"levels": [-0.2, -0.1, 0, 0.3]})"));
  for (const char* bad : {"", "[1]", "{\"levels\": [0, 0.1]}", "{\"levels\": [0, 0.1, 0.3, 0.2]}",
                          "{\"levels\": [0, 0, 0, \"x\"]}", "{\"levels\": [0, 0.1, 0.2, 1e300]}",
                          "{\"levels\": [0, 0.1, 0.2, 0.3], \"dim\": 64}", "{\"levels\": 3}",
                          "{\"levels\": [0, 0.1"}) {
    CAPTURE(bad);
    check_contains(error_of([&] { import_with(bad); }), book);
  }
  options.codebook = scratch / "missing.json";
  check_contains(error_of([&] { import_bytes(row + f32(2), options); }), "missing.json");
}

TEST_CASE("what the command line alone decides is a usage error, before the file is opened") {
  const auto usage = [](auto change, const char* layout = "nibble-low") {
    KvImportOptions options = options_of(layout, 4);
    options.rotation = RotationKind::kQr;
    options.seed = 1;
    options.codebook = "beta-d128-b4";
    change(options);
    try {
      open_import("/nonexistent/raw", options);
    } catch (const UsageError& error) {
      return std::string(error.what());
    } catch (const Error&) {
      return std::string("no usage error");
    }
    return std::string("no error");
  };
  using Options = KvImportOptions;
  CHECK(usage([](Options&) {}) == "no usage error");
  check_contains(usage([](Options& o) { o.layout = "nibble"; }), "nibble-low");
  check_contains(usage([](Options& o) { o.part.reset(); }), "--part");
  check_contains(usage([](Options& o) { o.rotation.reset(); }), "--rotation");
  check_contains(usage([](Options& o) { o.seed.reset(); }), "--seed");
  check_contains(usage([](Options& o) { o.codebook.clear(); }), "--codebook");
  check_contains(usage([](Options& o) { o.codebook.clear(); }, "nibble-high"), "--codebook");
  check_contains(usage([](Options& o) { o.codebook = "beta-d64-b4"; }), "use beta-d128-b4");
  check_contains(usage([](Options& o) { o.codebook = "gaussian-3-sigma-d128-b3"; }),
                 "use gaussian-3-sigma-d128-b4");
  check_contains(usage([](Options& o) { o.shape.bits = 2; }), "use --bits 3, 4");
  check_contains(usage([](Options& o) { o.shape.bits = 5; }), "use --bits");
  check_contains(usage([](Options& o) { o.shape.dim = 7; }), "8..1024");
  check_contains(usage([](Options& o) { o.shape.dim = 9; }), "whole bytes");
  check_contains(usage([](Options& o) { o.shape.heads = 0; }), "heads");
  check_contains(usage([](Options& o) { o.shape.tokens = 0; }), "tokens");
  check_contains(usage([](Options& o) {
                   o.shape.dim = 96;
                   o.rotation = RotationKind::kRht2;
                   o.codebook = "beta-d96-b4";
                 }),
                 "power of two");
}

}  // namespace
}  // namespace tq
