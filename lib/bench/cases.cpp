#include "lib/bench/cases.h"

#include <fmt/format.h>

#include <algorithm>

#include "lib/io/tq3_checkpoint.h"

namespace tq {

std::string_view name_of(Operation operation) {
  switch (operation) {
    case Operation::kEncode:
      return "encode";
    case Operation::kDecode:
      return "decode";
    case Operation::kCompare:
      break;
  }
  return "compare";
}

std::string describe(const Case& item) {
  return fmt::format("{}, dim {}, {} bits, {}{}{}{}{}", name_of(item.operation), item.dim, item.bits,
                     name_of(item.dtype), item.norm == NormMode::kRaw ? "" : ", norm ",
                     item.norm == NormMode::kRaw ? "" : name_of(item.norm),
                     item.effort == 0 ? "" : fmt::format(", effort {}", item.effort),
                     item.tq3 ? ", native TQ3" : "");
}

Scheme scheme_of(const Case& item) {
  Scheme scheme = item.tq3 ? tq3_scheme(item.bits, item.dim) : default_scheme(item.bits, item.dim);
  scheme.norm = item.norm;
  return scheme;
}

CaseAxes bench_axes() {
  return {{Operation::kEncode, Operation::kDecode, Operation::kCompare},
          {64, 96, 128, 256},
          {2, 3, 4},
          {DType::kBf16}};
}

CaseAxes parity_axes() {
  return {{Operation::kEncode, Operation::kDecode},
          {8, 9, 15, 31, 32, 64, 80, 96, 100, 112, 128, 144, 256, 576, 1024},
          {1, 2, 3, 4, 5, 6, 7, 8},
          {DType::kF32, DType::kF16, DType::kBf16}};
}

std::vector<Case> list_cases(const CaseAxes& axes) {
  std::vector<Case> cases;
  for (const int dim : axes.dims) {
    for (const DType dtype : axes.dtypes) {
      for (const int bits : axes.bits) {
        const auto asked = [&](int effort) {
          return std::find(axes.efforts.begin(), axes.efforts.end(), effort) != axes.efforts.end();
        };
        for (const NormMode norm : axes.norms) {
          for (const Operation operation : axes.operations) {
            if (operation == Operation::kEncode && !asked(0)) continue;
            cases.push_back({operation, dim, bits, dtype, norm, 0, axes.tq3});
          }
        }
        for (const int effort : axes.efforts) {
          const bool encodes = std::find(axes.operations.begin(), axes.operations.end(),
                                         Operation::kEncode) != axes.operations.end();
          if (effort == 0 || !encodes) continue;
          cases.push_back({Operation::kEncode, dim, bits, dtype, NormMode::kLeastSquares, effort, axes.tq3});
        }
      }
    }
  }
  return cases;
}

}  // namespace tq
