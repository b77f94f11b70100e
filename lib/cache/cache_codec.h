// A CacheScheme with its tables, and the two functions that use it: one head of K or V to its coded form, and back. What
// cannot be done row by row (means, the loudest channels) is done here; rows go through a Backend.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lib/backend.h"
#include "lib/cache/cache_method.h"
#include "lib/cache/cache_scheme.h"
#include "lib/cache/group_quant.h"

namespace tq {

class CacheCodec {
 public:
  /// Makes the tables. `effort` as Codec::with_effort(). Throws Error as Codec.
  explicit CacheCodec(const CacheScheme& scheme, int effort = 0);
  /// Takes the tables that a file carries: null where the scheme has no such rows.
  CacheCodec(const CacheScheme& scheme, std::shared_ptr<const Codec> rows, std::shared_ptr<const Codec> outliers);

  const CacheScheme& scheme() const { return scheme_; }
  const Codec* rows() const { return rows_.get(); }          ///< null unless the kind is kTurboQuant
  const Codec* outliers() const { return outliers_.get(); }  ///< null without outlier channels

  /// As Codec::with_seed() and Codec::plain(), of rows and outliers; the other kinds stay.
  CacheCodec with_seed(std::uint32_t seed) const;
  CacheCodec plain() const;
  /// The same decoder with the sketch of another seed; for a scheme that has one.
  CacheCodec with_sketch_seed(std::uint32_t seed) const;

 private:
  CacheScheme scheme_;
  std::shared_ptr<const Codec> rows_, outliers_;
};

/// One head in its coded form. What a scheme does not use is empty.
struct CodedHead {
  std::int64_t tokens = 0;
  CodedRows rows;       ///< of the coded tokens
  CodedRows outliers;   ///< of the coded tokens
  GroupRows groups;     ///< of the coded tokens
  std::vector<std::uint16_t> center;    ///< [dim] BF16
  std::vector<std::uint16_t> channels;  ///< [outlier_channels], ascending
  std::vector<std::uint16_t> exact;     ///< [tokens - coded][dim] in exact_dtype: the sinks, then the recent tokens
};

/// x [tokens][dim] -> coded. Error, beginning with `where` and naming the token and, where one is at fault, the channel: for a
/// value that is not finite, and for a row that cannot be coded. Thread-safe.
CodedHead encode_head(const Backend& backend, const CacheCodec& codec, std::span<const float> x, const std::string& where);

/// The inverse, [tokens][dim]. Thread-safe.
std::vector<float> decode_head(const Backend& backend, const CacheCodec& codec, const CodedHead& coded, Decode purpose);

/// The error energy sum |x - x_hat|^2 that theory expects of a head: D |what was coded|^2, summed over rows and outliers.
/// NaN for groups, of which theory says nothing; 0 where all is exact.
double expected_error(const CacheCodec& codec, const CodedHead& coded, std::span<const float> x);

/// Rows of the whole dim at `bits`, in the manner of the scheme: what another number of bits would do.
CacheCodec with_bits(const CacheScheme& scheme, int bits);

/// One codec for all heads, or one a head, as a CacheMethod: keys with a sketch come back as inner products see them.
/// `readers`, as many, decode what the codecs coded: those of another seed are a negative control; none: the codecs
/// themselves. round_trip() runs on up to `threads` threads of its own. The backend must outlive it.
std::unique_ptr<CacheMethod> make_cache_method(std::vector<std::shared_ptr<const CacheCodec>> codecs, const Backend& backend,
                                               int threads, std::vector<std::shared_ptr<const CacheCodec>> readers = {});

}  // namespace tq
