#include "lib/coded_rows.h"

namespace tq {

void CodedRows::resize(const Scheme& scheme, std::int64_t rows) {
  count = rows;
  const auto n = static_cast<std::size_t>(rows);
  codes.resize(n * static_cast<std::size_t>(scheme.code_bytes()));
  norms.resize(n);
  signs.resize(n * static_cast<std::size_t>(scheme.sign_bytes()));
  residual_norms.resize(scheme.qjl ? n : 0);
}

}  // namespace tq
