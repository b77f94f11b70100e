// Does the GPU write the same bytes as one CPU thread without vector code? Every case of parity_axes() (lib/bench/cases.h) under
// every rotation, and those of the lists below, are encoded and decoded by both, and codes, norms and decoded values are compared
// byte for byte.
//
//   gpu_parity [N]       CUDA device N, by default 0
//   gpu_parity TARGET    a CPU target (such as avx2) in the GPU's place
//   gpu_parity N WORDS   only families whose name holds one of the words, such as "dim  128" or "effort"
//
// Exit 0: the same; 1: a difference, which is shown; 3: could not run; 77: no GPU here, counted as skipped by CTest.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "kernels/gpu_backend.h"
#include "lib/bench/cases.h"
#include "lib/error.h"
#include "tests/parity_compare.h"
#include "tests/parity_rows.h"

namespace tq {
namespace {

constexpr int kSkipped = 77;
constexpr RotationKind kRotations[] = {RotationKind::kRht2, RotationKind::kRht1, RotationKind::kQr,
                                       RotationKind::kIdentity};
constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBf16};
constexpr int kNormDims[] = {9, 80, 96, 128, 1024};
constexpr int kGroupDims[] = {64, 96, 100, 128, 256, 576};
constexpr int kSearchDims[] = {9, 64, 80, 96, 128, 256, 576};
constexpr int kSketchDims[] = {8, 9, 64, 100, 128, 576};

/// The same row must be refused for NaN, both infinities and a norm that overflows; of two bad rows, the first.
void compare_refusals(const Backend& reference, const Backend& tested, const Codec& codec, const Rows& all,
                      Tally& tally) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Rows good = all;
  good.count = std::min<std::int64_t>(all.count, 300);
  good.bytes.resize(static_cast<std::size_t>(good.count) * good.row_bytes());
  const std::int64_t late = good.count - 7;
  const struct {
    std::int64_t row;
    int element;
    float value;
  } spoiled[] = {{late, 0, std::numeric_limits<float>::quiet_NaN()},
                 {late - 1, good.dim - 1, kInfinity},
                 {12, good.dim / 2, -kInfinity},
                 {late - 2, -1, 3e38f}};
  for (const auto& bad : spoiled) {
    Rows rows = good;
    spoil(rows, bad.row, bad.element, bad.value);
    spoil(rows, good.count - 1, 0, kInfinity);
    compare(reference, tested, codec, rows, bad.row, tally);
  }
}

/// Sketches of what decode() made of the rows, and the rows with them added.
void compare_sketches(const Backend& reference, const Backend& tested, const Codec& codec, Rows rows, Tally& tally) {
  const std::string where = fmt::format("{} from {}", format_scheme(codec.scheme()), name_of(rows.dtype));
  const auto count = static_cast<std::size_t>(rows.count);
  const auto sign_bytes = static_cast<std::size_t>(rows.dim + 7) / 8;
  const auto values = count * static_cast<std::size_t>(rows.dim);
  const Coded coded = code_rows(reference, codec, rows);
  if (coded.refused >= 0) {
    fmt::print("  {}: row {} is refused\n", where, coded.refused);
    ++tally.differences;
    return;
  }
  std::vector<float> x_hat(values);
  convert_to_float(rows.dtype, coded.decoded.data(), rows.count * rows.dim, x_hat.data());
  std::vector<std::uint8_t> signs[2];
  std::vector<float> norms[2], sums[2];
  bool same = true;
  for (const int which : {0, 1}) {
    const Backend& backend = which == 0 ? reference : tested;
    signs[which].resize(count * sign_bytes);
    norms[which].resize(count);
    sums[which] = x_hat;
    same &= backend.sketch(codec, rows.dtype, rows.bytes.data(), x_hat.data(), rows.count, signs[which].data(),
                           norms[which].data()) == -1;
    backend.add_sketches(codec, signs[0].data(), norms[0].data(), rows.count, sums[which].data());
  }
  if (!same) fmt::print("  {}: a row is refused by the sketch\n", where);
  same &= same_bytes("signs", where, signs[0].data(), signs[1].data(), rows.count, sign_bytes);
  same &= same_bytes("residual norms", where, norms[0].data(), norms[1].data(), rows.count, sizeof(float));
  same &= same_bytes("rows with sketches", where, sums[0].data(), sums[1].data(), rows.count,
                     static_cast<std::size_t>(rows.dim) * sizeof(float));
  const std::int64_t bad = rows.count / 2;
  spoil(rows, bad, 0, std::numeric_limits<float>::quiet_NaN());
  const std::int64_t refused = tested.sketch(codec, rows.dtype, rows.bytes.data(), x_hat.data(), rows.count,
                                             signs[1].data(), norms[1].data());
  if (refused != bad) fmt::print("  {}: the sketch refuses row {}, not {}\n", where, refused, bad);
  tally.rows += rows.count;
  if (!same || refused != bad) ++tally.differences;
}

/// Dense rotations cost dim^2 a row: fewer rows there.
std::int64_t rows_of_case(RotationKind rotation, int dim) {
  if (!is_dense(rotation, dim)) return 2000;
  return std::clamp<std::int64_t>((1 << 25) / (dim * dim), 64, 2000);
}

Tally compare_family(const Backend& reference, const Backend& tested, int dim, RotationKind rotation) {
  Tally tally;
  const std::int64_t count = rows_of_case(rotation, dim);
  const std::vector<float> matrix = Codec(default_scheme(1, dim, rotation)).rotation().matrix();
  const CaseAxes axes = parity_axes();
  for (const int bits : axes.bits) {
    const Scheme scheme = default_scheme(bits, dim, rotation);
    const Codec codec(scheme, find_codebook(scheme.codebook).table, matrix, {}, "gpu_parity");
    for (const DType dtype : axes.dtypes) {
      const auto seed = static_cast<std::uint32_t>(dim * 64 + bits);
      const Rows rows = make_rows(dtype, dim, count, largest_value(dtype), seed);
      compare(reference, tested, codec, rows, -1, tally);
      compare_refusals(reference, tested, codec, rows, tally);
    }
  }
  return tally;
}

/// A file may hold any H_12: the kernels that know tq's own must not take it for that.
Tally compare_another_matrix(const Backend& reference, const Backend& tested) {
  Tally tally;
  for (const int bits : {2, 3, 4}) {
    const Scheme scheme = default_scheme(bits, 96);
    std::vector<float> matrix = Codec(scheme).rotation().matrix();
    for (std::size_t i = 0; i < 12; ++i) matrix[12 * 11 + i] = -matrix[12 * 11 + i];
    const Codec codec(scheme, find_codebook(scheme.codebook).table, matrix, {}, "gpu_parity");
    for (const DType dtype : kDTypes) compare(reference, tested, codec, make_rows(dtype, 96, 2000, largest_value(dtype), 23), -1, tally);
  }
  return tally;
}

/// Norms that are not the row's own, and norms of F16, which refuse a row that would become zero.
Tally compare_norms(const Backend& reference, const Backend& tested, int dim, NormMode mode, DType norm_dtype) {
  Tally tally;
  const DType dtype = norm_dtype == DType::kF16 ? DType::kBf16 : DType::kF32;
  const float huge = norm_dtype == DType::kF16 ? 300.0f : largest_value(dtype) / 4;
  for (int bits = kMinBits; bits <= kMaxBits; ++bits) {
    Scheme scheme = default_scheme(bits, dim);
    scheme.norm = mode;
    scheme.norm_dtype = norm_dtype;
    const Codec codec(scheme);
    Rows rows = make_rows(dtype, dim, rows_of_case(scheme.rotation, dim), huge, 11);
    if (norm_dtype == DType::kF16) {
      compare(reference, tested, codec, rows, 4, tally);
      rows = without_tiny_rows(rows);
    }
    compare(reference, tested, codec, rows, -1, tally);
    spoil(rows, rows.count - 3, -1, norm_dtype == DType::kF16 ? 65000.0f : 3e38f);
    compare(reference, tested, codec, rows, rows.count - 3, tally);
  }
  return tally;
}

/// Of rows that are divided by their norm first, as those of native TQ3.
Codec group_codec(int bits, int dim, NormMode mode) {
  Scheme scheme = default_scheme(bits, dim);
  const Codebook table = find_codebook(scheme.codebook).table;
  const std::vector<float> matrix = Codec(scheme).rotation().matrix();
  scheme.norm = mode;
  const bool frozen = bits <= 4 && (dim == 64 || dim == 128 || dim == 256);
  scheme.codebook = fmt::format("vj-d{}-b{}", dim, bits);
  return Codec(scheme, frozen ? find_codebook(scheme.codebook).table : table, matrix, {}, "gpu_parity");
}

Tally compare_groups(const Backend& reference, const Backend& tested, int dim, NormMode mode) {
  Tally tally;
  for (const int bits : {2, 3, 4, 5}) {
    const Codec codec = group_codec(bits, dim, mode);
    for (const DType dtype : kDTypes) {
      Rows rows = make_rows(dtype, dim, rows_of_case(codec.scheme().rotation, dim), largest_value(dtype) / 4, 17);
      compare(reference, tested, codec, rows, -1, tally);
      compare_refusals(reference, tested, codec, rows, tally);
      add_small_values(rows);
      compare(reference, tested, codec, rows, -1, tally);
    }
  }
  return tally;
}

/// compare() after a call with other rows, where calls with nearly the same ones follow each other.
void compare_alone(const Backend& reference, const Backend& tested, const Codec& codec, const Rows& rows, std::int64_t refused,
                   Tally& tally) {
  code_others(tested, codec, rows);
  compare(reference, tested, codec, rows, refused, tally);
}

/// Every number of rows up to two tiles and a row, so that the last tile overlaps the one before in every way; with a row of zeros, which
/// is left to the plain code, in each of the places that matter, and without.
Tally compare_few_rows(const Backend& reference, const Backend& tested, int dim) {
  Tally tally;
  constexpr std::int64_t kOwnWays = 12;  // rows that make_rows() begins with
  for (const int bits : {2, 3, 4}) {
    for (const Codec& codec : {Codec(default_scheme(bits, dim)), group_codec(bits, dim, NormMode::kCorrected)}) {
      for (const DType dtype : kDTypes) {
        for (std::int64_t count = 1; count <= 2 * 1024 / dim + 1; ++count) {
          Rows rows = make_rows(dtype, dim, kOwnWays + count, 1.0f, 29);
          rows.bytes.erase(rows.bytes.begin(), rows.bytes.begin() + static_cast<std::ptrdiff_t>(kOwnWays * rows.row_bytes()));
          rows.count = count;
          compare_alone(reference, tested, codec, rows, -1, tally);
          for (const std::int64_t zero : {std::int64_t{0}, count / 2, count - 1}) {
            Rows with_zero = rows;
            spoil(with_zero, zero, -1, 0.0f);
            compare_alone(reference, tested, codec, with_zero, -1, tally);
          }
          spoil(rows, count - 1, 0, std::numeric_limits<float>::quiet_NaN());
          compare_alone(reference, tested, codec, rows, count - 1, tally);
        }
      }
    }
  }
  return tally;
}

/// On one block, so that its warps take a dozen turns; then with rows of zeros, so that every warp has tiles for the plain code after and
/// before others; with norms of the two significands that BriefDivision does not take, and of 2^16 and more; and with a row to refuse.
Tally compare_turns(const Backend& reference, const Backend& tested, int dim, NormMode mode) {
  Tally tally;
  const int tile = 1024 / dim;
  limit_cuda_blocks(1);
  for (const int bits : {2, 3, 4}) {
    Scheme scheme = default_scheme(bits, dim);
    scheme.norm = mode;
    for (const Codec& codec : {Codec(scheme), group_codec(bits, dim, mode)}) {
      for (const DType dtype : kDTypes) {
        Rows rows = make_rows(dtype, dim, 45 * tile + 3, 1.0f, 31);
        compare_alone(reference, tested, codec, rows, -1, tally);
        for (std::int64_t row = 5; row < rows.count; row += 7 * tile + 1) spoil(rows, row, -1, 0.0f);
        compare_alone(reference, tested, codec, rows, -1, tally);
        for (std::int64_t row = 9 * tile; row < rows.count; row += 11 * tile + 3) set_rare_norm(rows, row);
        compare_alone(reference, tested, codec, rows, -1, tally);
        spoil(rows, rows.count - 2 * tile, 1, std::numeric_limits<float>::quiet_NaN());
        compare_alone(reference, tested, codec, rows, rows.count - 2 * tile, tally);
      }
    }
  }
  limit_cuda_blocks(0);
  return tally;
}

/// The scale search; F16 norms as in compare_norms().
Tally compare_searches(const Backend& reference, const Backend& tested, int dim, int effort) {
  Tally tally;
  for (int bits = kMinBits; bits <= kMaxBits; ++bits) {
    Scheme scheme = default_scheme(bits, dim);
    scheme.norm = NormMode::kLeastSquares;
    scheme.norm_dtype = bits % 2 == 0 ? DType::kF32 : DType::kF16;
    const Codec codec = Codec(scheme).with_effort(effort);
    for (const DType dtype : kDTypes) {
      Rows rows = make_rows(dtype, dim, std::min<std::int64_t>(rows_of_case(scheme.rotation, dim), 500), 300.0f, 19);
      if (scheme.norm_dtype == DType::kF16) rows = without_tiny_rows(rows);
      compare(reference, tested, codec, rows, -1, tally);
      spoil(rows, rows.count - 3, 1, std::numeric_limits<float>::quiet_NaN());
      compare(reference, tested, codec, rows, rows.count - 3, tally);
    }
  }
  return tally;
}

Tally compare_sketches_of_dim(const Backend& reference, const Backend& tested, int dim) {
  Tally tally;
  Scheme scheme = default_scheme(2, dim);
  scheme.qjl = 7;
  for (const DType norm_dtype : {DType::kF32, DType::kF16}) {
    scheme.norm_dtype = norm_dtype;
    const Codec codec(scheme);
    for (const DType dtype : kDTypes) {
      const Rows rows = make_rows(dtype, dim, 200, 1000.0f, 13);
      compare_sketches(reference, tested, codec, norm_dtype == DType::kF16 ? without_tiny_rows(rows) : rows, tally);
    }
  }
  return tally;
}

/// More rows than a backend moves at once, and a bad one among the last.
Tally compare_many_rows(const Backend& reference, const Backend& tested) {
  Tally tally;
  const Codec codec(default_scheme(3, 128));
  Rows rows = make_rows(DType::kF32, 128, 150'001, 8e36f, 7);
  compare(reference, tested, codec, rows, -1, tally);
  spoil(rows, 149'000, 5, std::numeric_limits<float>::quiet_NaN());
  compare(reference, tested, codec, rows, 149'000, tally);
  return tally;
}

void print_family(const std::string& name, const Tally& tally) {
  fmt::print("{:<50} {:>8} rows  {}\n", name, tally.rows,
             tally.differences == 0 ? "same" : fmt::format("DIFFERENT in {} comparisons", tally.differences));
  std::fflush(stdout);
}

int run(const std::string& which, const std::vector<std::string>& words) {
  const bool gpu = which.find_first_not_of("0123456789") == std::string::npos;
  if (const std::string missing = describe_missing_cuda(); gpu && !missing.empty()) {
    fmt::print("skipped, no GPU: {}\n", missing);
    return kSkipped;
  }
  const auto reference = make_cpu_backend("scalar");
  const auto tested = gpu ? make_cuda_backend(std::stoi(which)) : make_cpu_backend(which);
  fmt::print("{} against {}\n", tested->name(), reference->name());
  Tally total;
  const auto run_family = [&](const std::string& name, const std::function<Tally()>& compare_family_of) {
    const auto named = [&](const std::string& word) { return name.find(word) != std::string::npos; };
    if (!words.empty() && std::none_of(words.begin(), words.end(), named)) return;
    const Tally tally = compare_family_of();
    print_family(name, tally);
    total.rows += tally.rows;
    total.differences += tally.differences;
  };
  for (const int dim : parity_axes().dims) {
    for (const RotationKind rotation : kRotations) {
      if (rotation == RotationKind::kRht1 && is_dense(rotation, dim)) continue;  // the same as qr
      run_family(fmt::format("dim {:4} {:<8} bits 1-8 F32 F16 BF16", dim, name_of(rotation)),
               [&] { return compare_family(*reference, *tested, dim, rotation); });
    }
  }
  run_family("dim   96 rht2     bits 2-4 another H_12", [&] { return compare_another_matrix(*reference, *tested); });
  for (const int dim : kNormDims) {
    for (const NormMode mode : {NormMode::kRaw, NormMode::kCorrected, NormMode::kLeastSquares}) {
      for (const DType dtype : {DType::kF32, DType::kF16}) {
        if (mode == NormMode::kRaw && dtype == DType::kF32) continue;  // all of the above
        run_family(fmt::format("dim {:4} rht2     bits 1-8 norm {} {}", dim, name_of(mode), name_of(dtype)),
               [&] { return compare_norms(*reference, *tested, dim, mode, dtype); });
      }
    }
  }
  for (const int dim : kGroupDims) {
    for (const NormMode mode : {NormMode::kRaw, NormMode::kCorrected, NormMode::kLeastSquares}) {
      run_family(fmt::format("dim {:4} rht2     bits 2-5 norm {} divide first", dim, name_of(mode)),
               [&] { return compare_groups(*reference, *tested, dim, mode); });
    }
  }
  for (const int dim : {64, 128, 256}) {
    run_family(fmt::format("dim {:4} rht2     bits 2-4 few rows", dim), [&] { return compare_few_rows(*reference, *tested, dim); });
    for (const NormMode mode : {NormMode::kRaw, NormMode::kCorrected, NormMode::kLeastSquares}) {
      run_family(fmt::format("dim {:4} rht2     bits 2-4 turns norm {}", dim, name_of(mode)),
                 [&] { return compare_turns(*reference, *tested, dim, mode); });
    }
  }
  for (const int dim : kSearchDims) {
    for (const int effort : {1, 2, 3}) {
      run_family(fmt::format("dim {:4} rht2     bits 1-8 effort {}", dim, effort),
               [&] { return compare_searches(*reference, *tested, dim, effort); });
    }
  }
  for (const int dim : kSketchDims) {
    run_family(fmt::format("dim {:4} sketch   bits 2", dim),
               [&] { return compare_sketches_of_dim(*reference, *tested, dim); });
  }
  run_family("dim  128 rht2     bits 3   many rows",
               [&] { return compare_many_rows(*reference, *tested); });
  if (total.rows == 0) throw Error("no family's name holds one of the words");
  fmt::print("{} rows: {}\n", total.rows, total.differences == 0 ? "every byte is the same" : "NOT THE SAME");
  return total.differences == 0 ? 0 : 1;
}

}  // namespace
}  // namespace tq

int main(int argc, char** argv) {
  try {
    return tq::run(argc > 1 ? argv[1] : "0", std::vector<std::string>(argv + std::min(argc, 2), argv + argc));
  } catch (const std::exception& error) {
    fmt::print(stderr, "gpu_parity: {}\n", error.what());
    return 3;
  }
}
