// How fast a backend runs a case. The result is checked before the clock starts: a wrong result has
// no time.
//
// Rates are decimal GB/s of the rows in their own dtype, whichever side of the operation they are
// on (input of encode, output of decode, x of compare), so that encode, decode and a copy can be
// read side by side.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "lib/backend.h"
#include "lib/bench/cases.h"

namespace tq {

/// The largest distance of a measured relative MSE from the codebook's D, as a share of D, to
/// either side.
inline constexpr double kBenchMseTolerance = 0.02;
/// With effort the search may go this far below D of the nearest levels, as a share of it.
inline constexpr double kBenchSearchGain = 0.2;

/// Of the repeats of one case; all of them follow one run that is not counted.
struct Timing {
  double median_us = 0;  ///< microseconds
  double min_us = 0;
};

/// A copy by memcpy, in pieces as large as those of the cases: the roof that rates are measured
/// against.
struct CopyRate {
  int threads = 1;
  std::uint64_t bytes = 0;  ///< that are read; as many are written
  Timing timing;
  double gb_per_s = 0;  ///< bytes over the median time
};

struct BenchResult {
  Case item;
  std::string target;  ///< name of the backend; "cpu" for compare, which is the same code whatever
                       ///< decoded the rows
  int threads = 1;
  std::int64_t rows = 0;
  std::uint64_t bytes = 0;  ///< of the rows in item.dtype
  std::uint64_t moved = 0;  ///< bytes that the operation must read and write: rows, codes and norms
  /// Of the decoded rows; NaN if a check failed.
  double relative_mse = std::numeric_limits<double>::quiet_NaN();
  double expected_mse = 0;  ///< D, and what rounding to item.dtype adds
  std::string failure;      ///< why there is no time; empty if the case was timed
  Timing timing;
  double gb_per_s = 0;
  /// XXH64 (seed 0) of the output. Encode: codes, then norms; decode: rows; compare: the
  /// statistics' doubles. It depends on nothing but the rows and the scheme: not on target, threads
  /// or pieces.
  std::uint64_t hash = 0;
};

/// Standard normal rows in `dtype`, [count][dim], from a fixed seed. The stream repeats after a
/// prime number of values (about a million), so that no row of dims up to 1024 comes twice in the
/// first million.
std::vector<std::uint8_t> make_bench_rows(DType dtype, int dim, std::int64_t count);

/// Copies `bytes` bytes, at least 1. Throws Error if the copy differs from the original.
CopyRate measure_copy(std::uint64_t bytes, int threads, int repeat);

/// D of the codec, and what rounding to `dtype` adds.
double expected_relative_mse(const Codec& codec, DType dtype);

/// Bytes of the rows, codes, norms and sums of a case: each is read or written once.
std::uint64_t moved_bytes(const Case& item, std::int64_t rows);

/// Checks and then times one case under the default scheme. `rows`: make_bench_rows, at least one
/// whole row, with 4e5 values or more (fewer may miss the tolerance by chance). repeat >= 1.
///
/// Checked: every row can be coded and its norm is finite; the relative MSE of all decoded rows is
/// within kBenchMseTolerance of D, or with effort at most kBenchSearchGain below it; codes, norms and decoded rows of an evenly spaced sample equal
/// the scalar target's to the byte; and the last timed run wrote what the checked one wrote. A
/// check that fails is `failure` in the result.
BenchResult run_case(const Case& item, const std::vector<std::uint8_t>& rows,
                     const Backend& backend, int threads, int repeat);

}  // namespace tq
