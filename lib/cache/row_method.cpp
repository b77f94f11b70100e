#include "lib/cache/row_method.h"

#include <fmt/format.h>

#include <algorithm>

#include "lib/error.h"
#include "lib/pack/pack_kv.h"
#include "lib/parallel.h"

namespace tq {
namespace {

constexpr std::int64_t kRowsAPiece = 256;

}  // namespace

RowMethod::RowMethod(std::shared_ptr<const Codec> codec, const Backend& backend, int threads)
    : RowMethod(codec, codec, backend, threads) {}

RowMethod::RowMethod(std::shared_ptr<const Codec> codec, std::shared_ptr<const Codec> reader, const Backend& backend,
                     int threads)
    : codec_(std::move(codec)), reader_(std::move(reader)), backend_(backend), threads_(threads) {}

std::string RowMethod::describe() const { return format_scheme(codec_->scheme()); }

std::uint64_t RowMethod::bytes(std::int64_t heads, std::int64_t tokens) const {
  return static_cast<std::uint64_t>(heads * tokens) * static_cast<std::uint64_t>(codec_->scheme().row_bytes());
}

void RowMethod::round_trip(std::span<const float> x, std::int64_t heads, std::int64_t tokens, std::span<float> x_hat,
                           const std::string& where) const {
  const std::int64_t rows = heads * tokens, dim = codec_->scheme().dim;
  if (static_cast<std::int64_t>(x.size()) != rows * dim || x_hat.size() != x.size()) {
    throw Error(fmt::format("{}: {} values are not {} heads of {} tokens of {} channels", where, x.size(), heads, tokens, dim));
  }
  parallel_for(threads_, (rows + kRowsAPiece - 1) / kRowsAPiece, [&](std::int64_t piece) {
    const std::int64_t first = piece * kRowsAPiece, count = std::min(kRowsAPiece, rows - first);
    const float* from = x.data() + first * dim;
    CodedRows coded;
    const std::int64_t refused = encode_rows(backend_, *codec_, DType::kF32, from, count, coded);
    if (refused >= 0) {
      const std::int64_t row = first + refused;
      report_refused_row(fmt::format("{}: head {}, token {}", where, row / tokens, row % tokens), codec_->scheme(),
                         {from + refused * dim, static_cast<std::size_t>(dim)});
    }
    decode_rows(backend_, *reader_, coded, Decode::kInnerProduct, DType::kF32, x_hat.data() + first * dim);
  });
}

}  // namespace tq
