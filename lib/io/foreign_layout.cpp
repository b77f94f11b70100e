#include "lib/io/foreign_layout.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "lib/error.h"
#include "lib/math/convert.h"

namespace tq {
namespace {

constexpr std::array<std::uint32_t, 2> kSameSeeds = {kDefaultSeed, kDefaultSeed};

const ForeignLayout kLayouts[] = {
    {"ac-page",
     "turboquant-vllm (Alberto-Codes), vLLM page",
     Arrangement::kTokenRows,
     {4, 4, 4},
     true,
     DType::kF32,
     RotationKind::kQr,
     kSameSeeds,
     "gaussian-3-sigma"},
    {"nibble-high",
     "turboquant-vllm (Alberto-Codes) and turboquant (back2matching), HF caches",
     Arrangement::kHeadRuns,
     {0, 0, 4},
     true,
     DType::kF32,
     RotationKind::kQr,
     kSameSeeds,
     ""},
    {"nibble-low",
     "turboquant-plus-vllm (varjoranta) and turboquant (0xSero)",
     Arrangement::kHeadRuns,
     {0, 4, 4},
     false,
     DType::kF32,
     std::nullopt,
     std::nullopt,
     ""},
    {"bitstream",
     "fused-turboquant (Argonaut790), HF CompressedTensor",
     Arrangement::kHeadRuns,
     {2, 3, 4},
     false,
     DType::kF16,
     RotationKind::kRht1,
     kSameSeeds,
     "beta"},
    {"ar-slot",
     "fused-turboquant (Argonaut790), vLLM slots",
     Arrangement::kSlots,
     {2, 3, 4},
     false,
     DType::kF32,
     RotationKind::kRht1,
     kSameSeeds,
     "beta"},
    {"vj-paged",
     "turboquant-plus-vllm (varjoranta), CUDA pages",
     Arrangement::kTokenRuns,
     {2, 8, 4},
     false,
     DType::kF32,
     RotationKind::kRht2,
     std::array<std::uint32_t, 2>{kDefaultSeed, 542},
     "vj"},
};

int cell_bits_of(const ForeignLayout& layout, int bits) {
  return layout.cell_bits[static_cast<std::size_t>(bits - 2)];
}

std::int64_t code_bytes(const ForeignLayout& layout, const ForeignShape& shape) {
  return shape.dim * cell_bits_of(layout, shape.bits) / 8;
}

/// Bytes that a token takes up in the file, K and V where it holds both.
std::int64_t file_token_bytes(const ForeignLayout& layout, const ForeignShape& shape) {
  const std::int64_t row =
      code_bytes(layout, shape) + static_cast<std::int64_t>(size_of(layout.norm_dtype));
  switch (layout.arrangement) {
    case Arrangement::kHeadRuns:
    case Arrangement::kTokenRuns:
      return shape.heads * row;
    case Arrangement::kTokenRows:
      return shape.heads *
             static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(2 * row)));
    case Arrangement::kSlots:
      return 2 * shape.heads * row;
  }
  return 0;
}

float read_norm(DType dtype, const std::uint8_t* bytes) {
  if (dtype == DType::kF16) return math::float_from_f16<std::int32_t>(bytes[0] | bytes[1] << 8);
  float norm = 0;
  std::memcpy(&norm, bytes, sizeof(norm));
  return norm;
}

/// Rewrites a row of cells as tq's bit stream, whole bytes. Returns the first element whose cell
/// holds more than `bits` bits, or -1.
int repack_row(const std::uint8_t* cells, int cell_bits, bool high_first, int bits, int dim,
               std::uint8_t* codes) {
  unsigned pending = 0;
  int pending_bits = 0;
  for (int i = 0; i < dim; ++i) {
    const int bit = (high_first ? i ^ 1 : i) * cell_bits;
    unsigned cell = cells[bit / 8];
    if (bit % 8 + cell_bits > 8) cell |= static_cast<unsigned>(cells[bit / 8 + 1]) << 8;
    const unsigned code = (cell >> (bit % 8)) & ((1u << cell_bits) - 1);
    if (code >> bits != 0) return i;
    pending |= code << pending_bits;
    pending_bits += bits;
    if (pending_bits >= 8) {
      *codes++ = static_cast<std::uint8_t>(pending);
      pending >>= 8;
      pending_bits -= 8;
    }
  }
  return -1;
}

constexpr std::string_view kAdvice = "check --layout, --dim, --heads and --bits";

}  // namespace

std::span<const ForeignLayout> foreign_layouts() { return kLayouts; }

const ForeignLayout& find_foreign_layout(std::string_view name) {
  std::string known;
  for (const ForeignLayout& layout : kLayouts) {
    if (layout.name == name) return layout;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", layout.name);
  }
  throw UsageError(fmt::format("unknown layout '{}': use one of {}", name, known));
}

void check_foreign_shape(const ForeignLayout& layout, const ForeignShape& shape) {
  if (shape.dim < kMinDim || shape.dim > kMaxRowDim) {
    throw UsageError(fmt::format("layout {}: dim {}: must be {}..{}", layout.name, shape.dim,
                                 kMinDim, kMaxRowDim));
  }
  if (shape.heads < 1 || shape.heads > kMaxForeignHeads) {
    throw UsageError(fmt::format("layout {}: {} heads: must be 1..{}", layout.name, shape.heads,
                                 kMaxForeignHeads));
  }
  if (shape.tokens && *shape.tokens < 1) {
    throw UsageError(
        fmt::format("layout {}: {} tokens: must be 1 or more", layout.name, *shape.tokens));
  }
  if (shape.bits < 2 || shape.bits > 4 || cell_bits_of(layout, shape.bits) == 0) {
    std::string known;
    for (int bits = 2; bits <= 4; ++bits) {
      if (cell_bits_of(layout, bits) != 0)
        known += fmt::format("{}{}", known.empty() ? "" : ", ", bits);
    }
    throw UsageError(fmt::format("layout {} has no codes of {} bits: use --bits {}", layout.name,
                                 shape.bits, known));
  }
  if (shape.dim * cell_bits_of(layout, shape.bits) % 8 != 0 || shape.dim * shape.bits % 8 != 0) {
    throw UsageError(
        fmt::format("layout {}: {} codes of {} bits do not fill whole bytes: is --dim right?",
                    layout.name, shape.dim, shape.bits));
  }
}

ForeignFile::ForeignFile(InputFile file, const ForeignLayout& layout, const ForeignShape& shape,
                         std::int64_t capacity)
    : file_(std::move(file)),
      layout_(layout),
      shape_(shape),
      capacity_(capacity),
      tokens_(shape.tokens.value_or(capacity)) {}

ForeignFile ForeignFile::open(const std::string& path, const ForeignLayout& layout,
                              const ForeignShape& shape) {
  check_foreign_shape(layout, shape);
  InputFile file = InputFile::open(path);
  const auto size = static_cast<std::int64_t>(file.size());
  const std::int64_t unit = file_token_bytes(layout, shape);
  const std::int64_t capacity = size / unit;
  if (size == 0) throw Error(fmt::format("{}: the file is empty", path));
  if (size % unit != 0) {
    throw Error(
        fmt::format("{}: {} bytes are no whole number of tokens, which take {} bytes each in "
                    "layout {}: {} bytes are "
                    "left over at byte {}; {}",
                    path, size, unit, layout.name, size % unit, capacity * unit, kAdvice));
  }
  const std::int64_t tokens = shape.tokens.value_or(capacity);
  if (tokens > capacity || (layout.arrangement == Arrangement::kHeadRuns && tokens != capacity)) {
    throw Error(
        fmt::format("{}: the {} bytes hold {} tokens in layout {}, and --tokens says {}; {}", path,
                    size, capacity, layout.name, tokens, kAdvice));
  }
  return ForeignFile(std::move(file), layout, shape, capacity);
}

std::int64_t ForeignFile::token_bytes() const {
  return shape_.heads *
         (code_bytes(layout_, shape_) + static_cast<std::int64_t>(size_of(layout_.norm_dtype)));
}

ForeignFile::Place ForeignFile::place_codes(KvPart part) const {
  const std::int64_t size = code_bytes(layout_, shape_);
  const std::int64_t slot = token_bytes() / shape_.heads;
  const std::int64_t which = part == KvPart::kValues ? 1 : 0;
  switch (layout_.arrangement) {
    case Arrangement::kHeadRuns:
      return {0, size, capacity_ * size, size};
    case Arrangement::kTokenRuns:
      return {0, shape_.heads * size, size, size};
    case Arrangement::kTokenRows:
      return {which * token_bytes(), file_token_bytes(layout_, shape_), size, size};
    case Arrangement::kSlots:
      return {which * capacity_ * token_bytes(), token_bytes(), slot, size};
  }
  return {};
}

ForeignFile::Place ForeignFile::place_norms(KvPart part) const {
  const Place codes = place_codes(part);
  const auto size = static_cast<std::int64_t>(size_of(layout_.norm_dtype));
  switch (layout_.arrangement) {
    case Arrangement::kHeadRuns:
      return {capacity_ * shape_.heads * codes.size, size, capacity_ * size, size};
    case Arrangement::kTokenRuns:
      return {capacity_ * shape_.heads * codes.size, shape_.heads * size, size, size};
    case Arrangement::kTokenRows:
      return {codes.base + shape_.heads * codes.size, codes.token_stride, size, size};
    case Arrangement::kSlots:
      return {codes.base + codes.size, codes.token_stride, codes.head_stride, size};
  }
  return {};
}

/// [heads][count][place.size] of the file's bytes. One read where the heads of a token lie
/// together, else one a head.
std::vector<std::uint8_t> ForeignFile::gather(const Place& place, std::int64_t first,
                                              std::int64_t count) const {
  std::vector<std::uint8_t> out(static_cast<std::size_t>(shape_.heads * count * place.size));
  if (place.head_stride > place.token_stride) {
    for (std::int64_t head = 0; head < shape_.heads; ++head) {
      file_.read(static_cast<std::uint64_t>(place.offset(first, head)),
                 std::as_writable_bytes(std::span(out))
                     .subspan(static_cast<std::size_t>(head * count * place.size),
                              static_cast<std::size_t>(count * place.size)));
    }
    return out;
  }
  const std::int64_t begin = place.offset(first, 0);
  const std::int64_t end = place.offset(first + count - 1, shape_.heads - 1) + place.size;
  std::vector<std::uint8_t> span(static_cast<std::size_t>(end - begin));
  file_.read(static_cast<std::uint64_t>(begin), std::as_writable_bytes(std::span(span)));
  std::uint8_t* to = out.data();
  for (std::int64_t head = 0; head < shape_.heads; ++head) {
    for (std::int64_t token = first; token < first + count; ++token, to += place.size) {
      std::memcpy(to, span.data() + (place.offset(token, head) - begin),
                  static_cast<std::size_t>(place.size));
    }
  }
  return out;
}

void ForeignFile::refuse(const Place& place, std::int64_t token, std::int64_t head,
                         const std::string& what) const {
  throw Error(fmt::format("{}: byte {}: head {}, token {}: {}; {}", file_.path(),
                          place.offset(token, head), head, token, what, kAdvice));
}

void ForeignFile::read_tokens(KvPart part, std::int64_t first, std::int64_t count,
                              std::uint8_t* codes, float* norms) const {
  const Place code_place = place_codes(part);
  const Place norm_place = place_norms(part);
  const std::int64_t rows = shape_.heads * count;
  const auto place_of = [&](std::int64_t row) {
    return std::pair(first + row % count, row / count);
  };

  const std::vector<std::uint8_t> foreign_norms = gather(norm_place, first, count);
  for (std::int64_t row = 0; row < rows; ++row) {
    norms[row] = read_norm(layout_.norm_dtype, foreign_norms.data() + row * norm_place.size);
    if (std::isfinite(norms[row]) && norms[row] >= 0.0f) continue;
    const auto [token, head] = place_of(row);
    refuse(norm_place, token, head, fmt::format("the norm is {}", norms[row]));
  }

  const std::vector<std::uint8_t> cells = gather(code_place, first, count);
  const int cell_bits = cell_bits_of(layout_, shape_.bits);
  const std::int64_t row_bytes = shape_.dim * shape_.bits / 8;
  for (std::int64_t row = 0; row < rows; ++row) {
    const int refused =
        repack_row(cells.data() + row * code_place.size, cell_bits, layout_.high_first, shape_.bits,
                   shape_.dim, codes + row * row_bytes);
    if (refused < 0) continue;
    const auto [token, head] = place_of(row);
    refuse({code_place.base + refused * cell_bits / 8, code_place.token_stride,
            code_place.head_stride, 0},
           token, head,
           fmt::format("the code of channel {} has more than {} bits", refused, shape_.bits));
  }
}

}  // namespace tq
