// Raw dumps of other systems: bytes that those systems wrote for one known vector, decoded through
// each layout; where every row lies; and files that are refused.
//
// The vector is x[i] = ((131 i + 17) mod 257 - 128) / 128, and beside each text of bytes stands the
// cosine that the published decoder reached.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "lib/io/kv_dump.h"
#include "lib/pack/import_kv.h"
#include "tests/codec_helpers.h"
#include "tests/io_helpers.h"

namespace tq {
namespace {

using test::check_contains;
using test::error_of;
using test::put_file;
using test::Scratch;

constexpr int kDim = 128;
constexpr float kNorm = 6.484375f;  // exact in F16

// fused-turboquant: Hadamard with one sign vector, seed 42; little-endian bit streams.
constexpr char kArBits2[] = "a8511965dd167b955fa982e9be4a8fc69abb7c795f6a22a67246d719aba998d8";
constexpr char kArBits3[] =
    "61b948ea2451ea5c4daf35adff34960ca8b6bdc9627ed8c9e5f89e79355affc4724441b1ccc545dfbc2e6db996e10a"
    "ce";
constexpr char kArBits4[] =
    "938a2654b4475559b5d75a47ae4b56a6dd56879a2991a5bbea8cb962dd827bc49b87ad8ee25b976bfe67a878191a59"
    "b9285e78436ed7a636ab8ab7"
    "9a83a781c6";
// Haar QR, seed 42, codebook of the exact density: the same codes in both nibble orders.
constexpr char kQrLow[] =
    "c4af24a91ea6b7a42aaca9968904cab96935996465399843e994a64779716959998c659347a5055d25424a69d242d2"
    "76a4a7577356cd63e676442b"
    "478aedbaa6";
constexpr char kQrHigh[] =
    "4cfa429ae16a7b4aa2ca9a699840ac9b96539946569389349e496a749717969599c85639745a50d55224a4962d242d"
    "674a7a753765dc366e6744b2"
    "74a8deab6a";
// The same with the codebook of turboquant-vllm.
constexpr char kAc[] =
    "4cfa429af16a7b3aa2ca9a599840ac9b96529946569389349e4a6a749717969599c85639745a50d55223a4962d242e"
    "674a7a753765dc366e6743c2"
    "74a8deab6a";
// turboquant-plus-vllm: two sign vectors around the Hadamard matrix, seed 42, one code a byte. The
// published text of 3 bits has 04 in place 8; only 05 gives the cosine beside it.
constexpr char kVjBits2[] =
    "0002020102030202020102030102020101000200010102030001000102010202000001010101020101000001020202"
    "030100000101010002000000"
    "0101010300010102020302000103030002010103010300020201010102020302030102020202000001010200010301"
    "010301020200030102010202"
    "01010301010100010200";
constexpr char kVjBits3[] =
    "0104050304060505050204050205040202020401020204050002010204020405000003020303050303010003050505"
    "050200010303020004010001"
    "0302030501020304040705000306070205030306020700040503020304040705070305040504010002030401020703"
    "030603050401050205030405"
    "02030603030200030401";

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

std::string f32(float value) {
  std::string bytes(4, '\0');
  std::memcpy(bytes.data(), &value, 4);
  return bytes;
}

std::string f16(float value) {
  std::string bytes(2, '\0');
  convert_from_float(&value, 1, DType::kF16, bytes.data());
  return bytes;
}

std::vector<float> golden_vector() {
  std::vector<float> x(kDim);
  for (int i = 0; i < kDim; ++i)
    x[static_cast<std::size_t>(i)] = static_cast<float>((131 * i + 17) % 257 - 128) / 128.0f;
  return x;
}

double cosine(const float* x, const float* y) {
  double xy = 0, xx = 0, yy = 0;
  for (int i = 0; i < kDim; ++i) {
    xy += double{x[i]} * double{y[i]};
    xx += double{x[i]} * double{x[i]};
    yy += double{y[i]} * double{y[i]};
  }
  return xy / std::sqrt(xx * yy);
}

KvImportOptions options_of(const std::string& layout, int bits, int heads = 1) {
  KvImportOptions options;
  options.layout = layout;
  options.shape = {kDim, heads, bits, std::nullopt};
  if (!find_foreign_layout(layout).holds_both()) options.part = KvPart::kKeys;
  return options;
}

/// The values of the tensors that importing `bytes` gives, one tensor after the other.
std::vector<float> import_bytes(const std::string& bytes, const KvImportOptions& options,
                                int threads = 1) {
  const Scratch scratch;
  put_file(scratch / "raw.bin", bytes);
  const KvImport import = open_import(scratch / "raw.bin", options);
  import_kv(import, *make_cpu_backend(), scratch / "out", {threads, false, {}});
  const SafetensorsFile file = SafetensorsFile::open(scratch / "out");
  CHECK(std::filesystem::file_size(scratch / "out") == import.output_bytes());
  std::vector<float> values;
  for (const KvImport::Tensor& tensor : import.tensors) {
    const TensorInfo& info = file.at(tensor.spec.name);
    CHECK(info.shape == tensor.spec.shape);
    std::vector<float> part(static_cast<std::size_t>(info.elements()));
    file.read(info, 0, std::as_writable_bytes(std::span(part)));
    values.insert(values.end(), part.begin(), part.end());
  }
  return values;
}

double golden_cosine(const std::string& bytes, const KvImportOptions& options) {
  const std::vector<float> y = import_bytes(bytes, options);
  REQUIRE(y.size() >= kDim);
  return cosine(golden_vector().data(), y.data());
}

void check_near(double value, double expected, double room = 1e-5) {
  CAPTURE(value);
  CHECK(std::abs(value - expected) < room);
}

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
