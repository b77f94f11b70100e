// Codebooks for encoders and decoders: from levels, from the frozen tables, or from the solver.
#include "lib/codebook.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstddef>
#include <iterator>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "lib/error.h"
#include "lib/solver/level_set.h"
#include "lib/solver/lloyd_max.h"
#include "lib/solver/published.h"

namespace tq {
namespace {

static_assert(std::is_trivially_copyable_v<Codebook>);

// One table of codebooks/: the positive half of the levels, 2^(bits-1) of them. 536 bytes.
struct FrozenTable {
  Density density;
  int dim;
  int bits;
  double distortion;
  double entropy_bits;
  float positive[128];
};

constexpr FrozenTable kFrozenTables[] = {
// clang-format off
#include "codebooks/gaussian.inc"
#include "codebooks/beta_d32.inc"
#include "codebooks/beta_d48.inc"
#include "codebooks/beta_d64.inc"
#include "codebooks/beta_d80.inc"
#include "codebooks/beta_d96.inc"
#include "codebooks/beta_d112.inc"
#include "codebooks/beta_d128.inc"
#include "codebooks/beta_d160.inc"
#include "codebooks/beta_d192.inc"
#include "codebooks/beta_d256.inc"
#include "codebooks/beta_d320.inc"
#include "codebooks/beta_d512.inc"
#include "codebooks/beta_d576.inc"
    // clang-format on
};
static_assert(std::size(kFrozenTables) == 8 * (1 + std::size(kShippedDims)));

constexpr FrozenTable kVjTables[] = {
// clang-format off
#include "codebooks/vj_d64.inc"
#include "codebooks/vj_d128.inc"
#include "codebooks/vj_d256.inc"
    // clang-format on
};
static_assert(std::size(kVjTables) == (kMaxVjBits - kMinVjBits + 1) * std::size(kVjGroupSizes));

std::string format_id(Density density, int dim, int bits) {
  return fmt::format("{}-d{}-b{}", name_of(density), dim, bits);
}

// The frozen table that serves a codebook: every Gaussian codebook is a scaled standard normal's.
const FrozenTable* find_frozen(Density density, int dim, int bits) {
  const int frozen_dim = density == Density::kGaussian ? 1 : dim;
  for (const FrozenTable& frozen : kFrozenTables) {
    if (frozen.density == density && frozen.dim == frozen_dim && frozen.bits == bits)
      return &frozen;
  }
  return nullptr;
}

std::vector<float> expand_levels(const FrozenTable& frozen, int dim) {
  const double scale =
      frozen.density == Density::kGaussian ? std::sqrt(static_cast<double>(dim)) : 1;
  const std::size_t half = std::size_t{1} << (frozen.bits - 1);
  std::vector<float> levels(2 * half);
  for (std::size_t i = 0; i < half; ++i) {
    levels[half + i] = static_cast<float>(static_cast<double>(frozen.positive[i]) / scale);
    levels[half - 1 - i] = -levels[half + i];
  }
  return levels;
}

// The table that a frozen one stands for, at a dim that is its own unless it is a Gaussian.
NamedCodebook make_named(std::string id, const FrozenTable& frozen, int dim) {
  return {std::move(id),
          make_codebook(expand_levels(frozen, dim)),
          frozen.density,
          dim,
          frozen.distortion,
          frozen.entropy_bits,
          true};
}

// The frozen compatibility table of an id, if it is one.
const FrozenTable* find_vj(std::string_view id) {
  for (const FrozenTable& frozen : kVjTables) {
    if (id == fmt::format("vj-d{}-b{}", frozen.dim, frozen.bits)) return &frozen;
  }
  return nullptr;
}

}  // namespace

Codebook make_codebook(std::span<const float> levels) {
  const std::size_t count = levels.size();
  if (count < 2 || count > 256 || !std::has_single_bit(count)) {
    throw Error(fmt::format("codebook has {} levels: must be a power of two from 2 to 256", count));
  }
  Codebook table{};
  table.bits = std::countr_zero(count);
  for (std::size_t i = 0; i < count; ++i) {
    if (!std::isfinite(levels[i])) {
      throw Error(fmt::format("codebook level {} is {}: must be finite", i, levels[i]));
    }
    if (i > 0 && !(levels[i - 1] < levels[i])) {
      throw Error(fmt::format("codebook level {} is {}, after {}: levels must ascend", i, levels[i],
                              levels[i - 1]));
    }
    table.levels[i] = levels[i];
  }
  for (std::size_t i = 0; i + 1 < count; ++i) {
    table.edges[i] = 0.5f * (levels[i] + levels[i + 1]);
    if (!std::isfinite(table.edges[i])) {
      throw Error(fmt::format("codebook levels {} and {} are too large: their midpoint overflows",
                              i, i + 1));
    }
  }
  return table;
}

NamedCodebook find_codebook(Density density, int dim, int bits) {
  check_solvable(density, dim, bits);
  const std::string id = format_id(density, dim, bits);
  if (const FrozenTable* frozen = find_frozen(density, dim, bits)) {
    return make_named(id, *frozen, dim);
  }
  const SolvedCodebook book = solve_codebook(density, dim, bits);
  std::vector<float> levels;
  for (double level : book.levels) levels.push_back(static_cast<float>(level));
  return {id, make_codebook(levels), density, dim, book.distortion, book.entropy_bits, false};
}

NamedCodebook find_codebook(std::string_view id) {
  if (const FrozenTable* vj = find_vj(id)) return make_named(std::string(id), *vj, vj->dim);
  const std::size_t dim_at = id.find("-d");
  const std::size_t bits_at = id.rfind("-b");
  int dim = 0;
  int bits = 0;
  if (dim_at != id.npos && bits_at != id.npos && dim_at < bits_at) {
    std::from_chars(id.data() + dim_at + 2, id.data() + bits_at, dim);
    std::from_chars(id.data() + bits_at + 2, id.data() + id.size(), bits);
  }
  const std::optional<Density> density = parse_density(id.substr(0, dim_at));
  if (!density || id != format_id(*density, dim, bits)) {
    throw Error(
        fmt::format("codebook id \"{}\" is unknown: an id is such as beta-d128-b3, "
                    "gaussian-d128-b3 or vj-d128-b3 (dims 64, 128, 256; bits 2, 3, 4)",
                    id));
  }
  try {
    return find_codebook(*density, dim, bits);
  } catch (const UsageError& error) {
    throw Error(fmt::format("codebook id \"{}\": {}", id, error.what()));
  }
}

double table_distortion(const Codebook& table, Density density, int dim) {
  if (!is_solvable_dim(density, dim)) {
    throw Error(fmt::format("distortion of a codebook for {} dim {}: dim must be {}..{}",
                            name_of(density), dim, kMinSolverDim, kMaxSolverDim));
  }
  const std::size_t count = std::size_t{1} << table.bits;
  return set_distortion(
      {{table.levels, table.levels + count}, {table.edges, table.edges + count - 1}}, density, dim);
}

}  // namespace tq
