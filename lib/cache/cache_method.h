// A way to keep the keys or the values of one layer in a cache, seen from outside: rows go in, other rows come out, at a
// price in bytes. tq's own schemes and those of other systems are compared through this, and a model's second forward pass
// reads its cache through it.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace tq {

class CacheMethod {
 public:
  virtual ~CacheMethod() = default;

  /// One line for a report: what it is, with its parameters.
  virtual std::string describe() const = 0;

  /// Exact bytes that `heads` heads of `tokens` tokens take: codes, scales, norms and tables per head, and the padding that
  /// the named system stores. Tables that are the same for every model are not counted.
  virtual std::uint64_t bytes(std::int64_t heads, std::int64_t tokens) const = 0;

  /// x [heads][tokens][dim], all finite -> x_hat of the same shape: what attention reads instead. Row t of a head is the
  /// token at position t. Error, beginning with `where`, for rows that the method cannot hold. Thread-safe.
  virtual void round_trip(std::span<const float> x, std::int64_t heads, std::int64_t tokens, std::span<float> x_hat,
                          const std::string& where) const = 0;

  /// The newest tokens, its own included, that a query reads as they were: a buffer of 16-bit rows beside the codes.
  /// x_hat holds every token as it is once it has left the buffer; bytes() counts the buffer.
  virtual std::int64_t recent_tokens() const { return 0; }
};

}  // namespace tq
