// What the tests of foreign layouts share: the known vector, the bytes that each published system wrote for it, and the way to
// import bytes. The vector is x[i] = ((131 i + 17) mod 257 - 128) / 128.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "lib/io/kv_dump.h"
#include "lib/pack/import_kv.h"
#include "tests/codec_helpers.h"
#include "tests/io_helpers.h"

namespace tq::test {

inline constexpr int kDim = 128;
inline constexpr float kNorm = 6.484375f;  // exact in F16

// fused-turboquant: Hadamard with one sign vector, seed 42; little-endian bit streams.
inline constexpr char kArBits2[] = "a8511965dd167b955fa982e9be4a8fc69abb7c795f6a22a67246d719aba998d8";
inline constexpr char kArBits3[] =
    "61b948ea2451ea5c4daf35adff34960ca8b6bdc9627ed8c9e5f89e79355affc4724441b1ccc545dfbc2e6db996e10a"
    "ce";
inline constexpr char kArBits4[] =
    "938a2654b4475559b5d75a47ae4b56a6dd56879a2991a5bbea8cb962dd827bc49b87ad8ee25b976bfe67a878191a59"
    "b9285e78436ed7a636ab8ab7"
    "9a83a781c6";
// Haar QR, seed 42, codebook of the exact density: the same codes in both nibble orders.
inline constexpr char kQrLow[] =
    "c4af24a91ea6b7a42aaca9968904cab96935996465399843e994a64779716959998c659347a5055d25424a69d242d2"
    "76a4a7577356cd63e676442b"
    "478aedbaa6";
inline constexpr char kQrHigh[] =
    "4cfa429ae16a7b4aa2ca9a699840ac9b96539946569389349e496a749717969599c85639745a50d55224a4962d242d"
    "674a7a753765dc366e6744b2"
    "74a8deab6a";
// The same with the codebook of turboquant-vllm.
inline constexpr char kAc[] =
    "4cfa429af16a7b3aa2ca9a599840ac9b96529946569389349e4a6a749717969599c85639745a50d55223a4962d242e"
    "674a7a753765dc366e6743c2"
    "74a8deab6a";
// turboquant-plus-vllm: two sign vectors around the Hadamard matrix, seed 42, one code a byte. The
// published text of 3 bits has 04 in place 8; only 05 gives the cosine beside it.
inline constexpr char kVjBits2[] =
    "0002020102030202020102030102020101000200010102030001000102010202000001010101020101000001020202"
    "030100000101010002000000"
    "0101010300010102020302000103030002010103010300020201010102020302030102020202000001010200010301"
    "010301020200030102010202"
    "01010301010100010200";
inline constexpr char kVjBits3[] =
    "0104050304060505050204050205040202020401020204050002010204020405000003020303050303010003050505"
    "050200010303020004010001"
    "0302030501020304040705000306070205030306020700040503020304040705070305040504010002030401020703"
    "030603050401050205030405"
    "02030603030200030401";

inline std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

inline std::string f32(float value) {
  std::string bytes(4, '\0');
  std::memcpy(bytes.data(), &value, 4);
  return bytes;
}

inline std::string f16(float value) {
  std::string bytes(2, '\0');
  convert_from_float(&value, 1, DType::kF16, bytes.data());
  return bytes;
}

inline std::vector<float> golden_vector() {
  std::vector<float> x(kDim);
  for (int i = 0; i < kDim; ++i)
    x[static_cast<std::size_t>(i)] = static_cast<float>((131 * i + 17) % 257 - 128) / 128.0f;
  return x;
}

inline double cosine(const float* x, const float* y) {
  double xy = 0, xx = 0, yy = 0;
  for (int i = 0; i < kDim; ++i) {
    xy += double{x[i]} * double{y[i]};
    xx += double{x[i]} * double{x[i]};
    yy += double{y[i]} * double{y[i]};
  }
  return xy / std::sqrt(xx * yy);
}

inline KvImportOptions options_of(const std::string& layout, int bits, int heads = 1) {
  KvImportOptions options;
  options.layout = layout;
  options.shape = {kDim, heads, bits, std::nullopt};
  if (!find_foreign_layout(layout).holds_both()) options.part = KvPart::kKeys;
  return options;
}

/// The values of the tensors that importing `bytes` gives, one tensor after the other.
inline std::vector<float> import_bytes(const std::string& bytes, const KvImportOptions& options,
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

inline double golden_cosine(const std::string& bytes, const KvImportOptions& options) {
  const std::vector<float> y = import_bytes(bytes, options);
  REQUIRE(y.size() >= kDim);
  return cosine(golden_vector().data(), y.data());
}

inline void check_near(double value, double expected, double room = 1e-5) {
  CAPTURE(value);
  CHECK(std::abs(value - expected) < room);
}

}  // namespace tq::test
