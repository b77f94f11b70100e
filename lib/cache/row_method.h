// tq's own cache: every row of K or V is one row of codes. Keys whose scheme has a QJL sketch are read with it, as attention
// needs them (Algorithm 2).
#pragma once

#include <memory>

#include "lib/backend.h"
#include "lib/cache/cache_method.h"

namespace tq {

class RowMethod final : public CacheMethod {
 public:
  /// The backend must outlive the method. round_trip() runs on up to `threads` threads of its own.
  RowMethod(std::shared_ptr<const Codec> codec, const Backend& backend, int threads);
  /// A negative control: rows are coded by `codec` and read back by `reader`, of the same dim and bits.
  RowMethod(std::shared_ptr<const Codec> codec, std::shared_ptr<const Codec> reader, const Backend& backend, int threads);

  /// The scheme's text.
  std::string describe() const override;
  /// rows x scheme.row_bytes().
  std::uint64_t bytes(std::int64_t heads, std::int64_t tokens) const override;
  /// Error for rows of another length than the scheme's, and for a row that cannot be coded, by head and token.
  void round_trip(std::span<const float> x, std::int64_t heads, std::int64_t tokens, std::span<float> x_hat,
                  const std::string& where) const override;

 private:
  std::shared_ptr<const Codec> codec_, reader_;
  const Backend& backend_;
  int threads_;
};

}  // namespace tq
