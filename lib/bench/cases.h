// The one list of cases: operation x dim x bits x dtype. Benchmarks and parity tests take it, so
// that what is timed is what was compared, on every backend.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lib/dtype.h"
#include "lib/scheme.h"

namespace tq {

enum class Operation {
  kEncode,   ///< rows -> codes and norms
  kDecode,   ///< codes and norms -> rows
  kCompare,  ///< rows and their reconstruction -> ErrorStats
};

/// "encode", "decode", "compare".
std::string_view name_of(Operation operation);

struct Case {
  Operation operation;
  int dim;      ///< elements of a row, 8..1024
  int bits;     ///< bits of a code, 1..8
  DType dtype;  ///< of the rows: F32, F16 or BF16
  NormMode norm = NormMode::kRaw;
  int effort = 0;  ///< of the encoder, 0..3; 1..3 go with least-squares norms (Codec::with_effort())
  bool tq3 = false;  ///< groups of weights as native TQ3 has them (tq3_scheme()): dim 64, 128 or 256, 2 to 4 bits

  bool operator==(const Case&) const = default;
};

/// "encode, dim 128, 3 bits, BF16", the norm mode if it is not raw, the effort if it is not 0, and "native TQ3".
std::string describe(const Case& item);

/// The default scheme of the case's dim and bits, or that of native TQ3, with its norm mode.
Scheme scheme_of(const Case& item);

/// What a list of cases is the product of.
struct CaseAxes {
  std::vector<Operation> operations;
  std::vector<int> dims;
  std::vector<int> bits;
  std::vector<DType> dtypes;
  std::vector<NormMode> norms = {NormMode::kRaw};
  std::vector<int> efforts = {0};  ///< of encode; 1..3 are listed once, with least-squares norms
  bool tq3 = false;
};

/// The head dims and widths of KV caches, BF16, every operation.
CaseAxes bench_axes();

/// Every path of the code: powers of two, each order of H_m, dense rotations, smallest and largest
/// dim, rows of codes that end within a byte; every width and dtype; encode and decode.
CaseAxes parity_axes();

/// The product. The dim varies slowest, then dtype, bits, operation, effort: neighbours share their rows
/// and their codec.
std::vector<Case> list_cases(const CaseAxes& axes);

}  // namespace tq
