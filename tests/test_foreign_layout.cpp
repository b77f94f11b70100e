// Raw dumps of other systems: bytes that those systems wrote for one known vector, decoded through
// each layout; where every row lies; and files that are refused.
//
// The vector is x[i] = ((131 i + 17) mod 257 - 128) / 128, and beside each text of bytes stands the
// cosine that the published decoder reached.
#include "tests/foreign_layout_helpers.h"

namespace tq {
namespace {

using namespace test;

TEST_CASE("bitstream: the published bytes at 2, 3 and 4 bits decode to the published cosines") {
  check_near(golden_cosine(from_hex(kArBits2) + f16(kNorm), options_of("bitstream", 2)), 0.945274);
  check_near(golden_cosine(from_hex(kArBits3) + f16(kNorm), options_of("bitstream", 3)), 0.982627);
  check_near(golden_cosine(from_hex(kArBits4) + f16(kNorm), options_of("bitstream", 4)), 0.994736);
  KvImportOptions wrong = options_of("bitstream", 4);
  wrong.rotation = RotationKind::kRht2;
  CHECK(std::abs(golden_cosine(from_hex(kArBits4) + f16(kNorm), wrong)) < 0.5);
  wrong = options_of("bitstream", 4);
  wrong.seed = 43;
  CHECK(std::abs(golden_cosine(from_hex(kArBits4) + f16(kNorm), wrong)) < 0.5);
}

TEST_CASE("nibble-low and nibble-high: one vector in both orders; the wrong order is far off") {
  KvImportOptions low = options_of("nibble-low", 4);
  low.rotation = RotationKind::kQr;
  low.seed = 42;
  low.codebook = "beta-d128-b4";
  KvImportOptions high = options_of("nibble-high", 4);
  high.codebook = "beta-d128-b4";
  check_near(golden_cosine(from_hex(kQrLow) + f32(kNorm), low), 0.996020);
  check_near(golden_cosine(from_hex(kQrHigh) + f32(kNorm), high), 0.996020);
  CHECK(std::abs(golden_cosine(from_hex(kQrHigh) + f32(kNorm), low)) < 0.5);
  CHECK(std::abs(golden_cosine(from_hex(kQrLow) + f32(kNorm), high)) < 0.5);
  high.codebook = "gaussian-3-sigma-d128-b4";
  check_near(golden_cosine(from_hex(kAc) + f32(kNorm), high), 0.996553);
}

TEST_CASE("nibble-low holds 3 bit codes too, one a nibble") {
  std::string nibbles;
  const std::string codes = from_hex(kVjBits3);
  for (std::size_t i = 0; i < codes.size(); i += 2)
    nibbles += static_cast<char>(codes[i] | codes[i + 1] << 4);
  KvImportOptions options = options_of("nibble-low", 3);
  options.rotation = RotationKind::kRht2;
  options.seed = 42;
  options.codebook = "vj-d128-b3";
  CHECK(import_bytes(nibbles + f32(kNorm), options) ==
        import_bytes(codes + f32(kNorm), options_of("vj-paged", 3)));
}

TEST_CASE("vj-paged: codes of 2 bits four a byte, of 3 bits one a byte") {
  std::string quarters;
  const std::string codes = from_hex(kVjBits2);
  for (std::size_t i = 0; i < codes.size(); i += 4) {
    quarters +=
        static_cast<char>(codes[i] | codes[i + 1] << 2 | codes[i + 2] << 4 | codes[i + 3] << 6);
  }
  check_near(golden_cosine(quarters + f32(6.953798f), options_of("vj-paged", 2)), 0.945284);
  check_near(golden_cosine(from_hex(kVjBits3) + f32(6.220951557f), options_of("vj-paged", 3)),
             0.982526);
}

TEST_CASE("the codebook cut at three sigma gives the published codes") {
  const Scratch scratch;
  put_file(scratch / "raw", std::string(68, '\0'));
  const KvImport import = open_import(scratch / "raw", [] {
    KvImportOptions options = options_of("nibble-high", 4);
    options.codebook = "gaussian-3-sigma";
    return options;
  }());
  const test::Coded coded =
      test::code_rows(*make_cpu_backend(), *import.tensors[0].codec, golden_vector());
  std::string swapped;
  for (const std::uint8_t byte : coded.codes) swapped += static_cast<char>(byte >> 4 | byte << 4);
  CHECK(swapped == from_hex(kAc));
}

/// A norm that tells part, head and token of its row.
float row_norm(int part, int head, int token) {
  return static_cast<float>(1 + token + 8 * head + 32 * part);
}

/// Row r of the values has `norm` times the length that a row of norm 1 has.
void check_norms(const std::vector<float>& y, const std::vector<float>& unit, int parts, int heads,
                 int tokens, int part = 0) {
  REQUIRE(y.size() == static_cast<std::size_t>(parts * heads * tokens * kDim));
  const float* row = y.data();
  for (int p = part; p < part + parts; ++p) {
    for (int head = 0; head < heads; ++head) {
      for (int token = 0; token < tokens; ++token, row += kDim) {
        CAPTURE(p);
        CAPTURE(head);
        CAPTURE(token);
        CHECK(std::abs(cosine(row, unit.data()) - 1.0) < 1e-6);
        CHECK(row[1] / unit[1] == doctest::Approx(row_norm(p, head, token)).epsilon(1e-5));
      }
    }
  }
}

TEST_CASE("ac-page: each row is found, pad means nothing, and the golden cosine") {
  // A token of two heads: 128 + 8 bytes of K, 128 + 8 of V, and 240 of pad up to 2 * 256.
  std::string page;
  for (int token = 0; token < 3; ++token) {
    for (int part = 0; part < 2; ++part) {
      page += from_hex(kAc) + from_hex(kAc);
      for (int head = 0; head < 2; ++head) page += f32(row_norm(part, head, token));
    }
    page += std::string(240, '\xff');
    REQUIRE(page.size() == static_cast<std::size_t>(512 * (token + 1)));
  }
  const std::vector<float> y = import_bytes(page, options_of("ac-page", 4, 2));
  const std::vector<float> unit(y.begin(), y.begin() + kDim);
  check_near(cosine(golden_vector().data(), unit.data()), 0.996553);
  check_norms(y, unit, 2, 2, 3);

  KvImportOptions values = options_of("ac-page", 4, 2);
  values.part = KvPart::kValues;
  check_norms(import_bytes(page, values), unit, 1, 2, 3, 1);
  values.shape.tokens = 2;
  check_norms(import_bytes(page, values), unit, 1, 2, 2, 1);
}

TEST_CASE("ac-page: codes are in heads' order, each its own") {
  const std::string zeros(64, '\x77'), golden = from_hex(kAc);
  const std::string page = golden + zeros + f32(kNorm) + f32(0) + zeros + golden + f32(0) +
                           f32(kNorm) + std::string(240, 0);
  const std::vector<float> y = import_bytes(page, options_of("ac-page", 4, 2));
  check_near(cosine(golden_vector().data(), y.data()), 0.996553);
  check_near(cosine(golden_vector().data(), y.data() + 3 * kDim), 0.996553);
  for (int i = kDim; i < 3 * kDim; ++i) CHECK(y[static_cast<std::size_t>(i)] == 0.0f);
}

TEST_CASE("ar-slot: 68, 52 and 36 bytes a slot; each row is found; golden cosines") {
  const struct {
    int bits;
    const char* hex;
    std::size_t slot;
    double cosine;
  } cases[] = {
      {4, kArBits4, 68, 0.994736}, {3, kArBits3, 52, 0.982627}, {2, kArBits2, 36, 0.945274}};
  for (const auto& golden : cases) {
    std::string slots;
    for (int part = 0; part < 2; ++part) {
      for (int token = 0; token < 4; ++token) {
        for (int head = 0; head < 3; ++head)
          slots += from_hex(golden.hex) + f32(row_norm(part, head, token));
      }
    }
    REQUIRE(slots.size() == 24 * golden.slot);
    const std::vector<float> y = import_bytes(slots, options_of("ar-slot", golden.bits, 3));
    const std::vector<float> unit(y.begin(), y.begin() + kDim);
    check_near(cosine(golden_vector().data(), unit.data()), golden.cosine);
    check_norms(y, unit, 2, 3, 4);
    // The first two tokens: those of V still begin in the middle of the file.
    KvImportOptions fewer = options_of("ar-slot", golden.bits, 3);
    fewer.shape.tokens = 2;
    check_norms(import_bytes(slots, fewer), unit, 2, 3, 2);
  }
}

TEST_CASE("head runs and token runs: each row is found") {
  for (const bool token_major : {false, true}) {
    std::string codes, norms, row;
    for (int i = 0; i < 64; ++i) row += static_cast<char>(37 * i);
    for (int outer = 0; outer < (token_major ? 5 : 2); ++outer) {
      for (int inner = 0; inner < (token_major ? 2 : 5); ++inner) {
        codes += row;
        norms += f32(token_major ? row_norm(0, inner, outer) : row_norm(0, outer, inner));
      }
    }
    KvImportOptions options = options_of(token_major ? "vj-paged" : "nibble-high", 4, 2);
    if (!token_major) options.codebook = "beta-d128-b4";
    const std::vector<float> y = import_bytes(codes + norms, options);
    check_norms(y, {y.begin(), y.begin() + kDim}, 1, 2, 5);
  }
}

TEST_CASE("bytes of a token") {
  const struct {
    const char* layout;
    int dim, heads, bits, bytes;
  } cases[] = {
      {"ac-page", 64, 1, 4, 128},   {"ac-page", 96, 1, 4, 128},   {"ac-page", 128, 3, 3, 768},
      {"ac-page", 256, 1, 2, 512},  {"ar-slot", 64, 1, 4, 72},    {"ar-slot", 64, 1, 3, 56},
      {"ar-slot", 64, 1, 2, 40},    {"ar-slot", 128, 8, 4, 1088}, {"bitstream", 128, 1, 4, 66},
      {"bitstream", 128, 1, 3, 50}, {"bitstream", 128, 1, 2, 34}, {"nibble-high", 80, 2, 4, 88},
      {"nibble-low", 80, 2, 3, 88}, {"vj-paged", 128, 1, 3, 132}, {"vj-paged", 128, 1, 2, 36}};
  const Scratch scratch;
  for (const auto& expected : cases) {
    CAPTURE(expected.layout);
    CAPTURE(expected.dim);
    CAPTURE(expected.bits);
    const ForeignShape shape{expected.dim, expected.heads, expected.bits, std::nullopt};
    put_file(scratch / "raw", std::string(static_cast<std::size_t>(3 * expected.bytes), '\0'));
    CHECK(
        ForeignFile::open(scratch / "raw", find_foreign_layout(expected.layout), shape).tokens() ==
        3);
  }
}

TEST_CASE("many pieces, any threads: the rows that the backend gives, row by row") {
  constexpr int kTokens = 2500, kHeads = 2;  // about 1000 tokens a piece
  std::string slots;
  std::vector<std::uint8_t> codes(32);
  std::mt19937 random(7);
  std::vector<float> expected(2 * kHeads * kTokens * kDim);
  const auto backend = make_cpu_backend();
  const Codec codec(default_scheme(2, kDim, RotationKind::kRht1));
  for (int part = 0; part < 2; ++part) {
    for (int token = 0; token < kTokens; ++token) {
      for (int head = 0; head < kHeads; ++head) {
        for (std::uint8_t& byte : codes) byte = static_cast<std::uint8_t>(random());
        const float norm = static_cast<float>(random() % 1000);
        slots.append(codes.begin(), codes.end()) += f32(norm);
        const int row = (part * kHeads + head) * kTokens + token;
        backend->decode(codec, codes.data(), &norm, 1, DType::kF32, expected.data() + row * kDim);
      }
    }
  }
  CHECK(import_bytes(slots, options_of("ar-slot", 2, kHeads), 1) == expected);
  CHECK(import_bytes(slots, options_of("ar-slot", 2, kHeads), 3) == expected);
}

TEST_CASE("what comes out is a KV dump, in any of three types, under the layer's names") {
  const Scratch scratch;
  put_file(scratch / "raw", from_hex(kArBits4) + f32(kNorm) + from_hex(kArBits4) + f32(kNorm));
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBf16}) {
    KvImportOptions options = options_of("ar-slot", 4);
    options.layer = 31;
    options.dtype = dtype;
    import_kv(open_import(scratch / "raw", options), *make_cpu_backend(), scratch / "out",
              {1, true, {}});
    const KvDump dump = KvDump::open(scratch / "out");
    REQUIRE(dump.layers().size() == 1);
    CHECK(dump.layers()[0].index == 31);
    CHECK(dump.layers()[0].v.info.dtype == dtype);
    std::vector<std::byte> row(kDim * size_of(dtype));
    dump.file().read(dump.layers()[0].v.info, 0, row);
    std::vector<float> y(kDim);
    convert_to_float(dtype, row.data(), kDim, y.data());
    check_near(cosine(golden_vector().data(), y.data()), 0.994736, 1e-4);
  }
}

TEST_CASE("K and V have the seeds of their system, or the one that is given") {
  const Scratch scratch;
  put_file(scratch / "raw", std::string(68, '\0'));
  KvImportOptions options = options_of("vj-paged", 4);
  CHECK(open_import(scratch / "raw", options).tensors[0].codec->scheme().seed == 42);
  options.part = KvPart::kValues;
  CHECK(open_import(scratch / "raw", options).tensors[0].codec->scheme().seed == 542);
  CHECK(open_import(scratch / "raw", options).tensors[0].spec.name == "v.0");
  options.seed = 7;
  CHECK(open_import(scratch / "raw", options).tensors[0].codec->scheme().seed == 7);
}

}  // namespace
}  // namespace tq
