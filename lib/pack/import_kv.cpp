#include "lib/pack/import_kv.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "lib/convert.h"
#include "lib/error.h"
#include "lib/solver/codebook_text.h"
#include "lib/solver/published.h"

namespace tq {
namespace {

constexpr std::int64_t kChunkBytes = std::int64_t{1} << 20;

Codebook round_levels(const std::vector<double>& levels) {
  std::vector<float> rounded;
  for (const double level : levels) rounded.push_back(static_cast<float>(level));
  return make_codebook(rounded);
}

/// The published set of levels of a name, ID or ID-dDIM-bBITS; nothing for other text, which is a
/// path. Throws UsageError for a set of another dim or width.
std::optional<Codebook> find_published(const std::string& name, int dim, int bits) {
  for (const PublishedSet& set : list_published(dim, bits)) {
    const std::string full_name = fmt::format("{}-d{}-b{}", set.id, dim, bits);
    if (name == set.id || name == full_name) {
      const std::optional<Density> density = parse_density(set.id);
      return density ? find_codebook(*density, dim, bits).table : round_levels(set.levels);
    }
    if (name.starts_with(set.id + "-d")) {
      throw UsageError(fmt::format("--codebook {} is not for --dim {} --bits {}: use {}", name, dim,
                                   bits, full_name));
    }
  }
  return std::nullopt;
}

Codebook read_codebook(const std::string& path, int dim, int bits) {
  const TableFile file =
      read_table(path, {.dim = dim, .density = std::nullopt, .in_sigma = std::nullopt});
  if (file.set.levels.size() != std::size_t{1} << bits) {
    throw Error(fmt::format("{}: {} levels, and codes of {} bits need {}", path,
                            file.set.levels.size(), bits, 1 << bits));
  }
  return round_levels(file.set.levels);
}

[[noreturn]] void ask_for(const ForeignLayout& layout, std::string_view option) {
  throw UsageError(
      fmt::format("layout {} ({}) does not settle it: say {}", layout.name, layout.system, option));
}

std::vector<KvPart> choose_parts(const ForeignLayout& layout, std::optional<KvPart> part) {
  if (part) return {*part};
  if (!layout.holds_both()) ask_for(layout, "--part k or --part v");
  return {KvPart::kKeys, KvPart::kValues};
}

/// The scheme of one part, with the layout's own values where the user gave none.
Scheme resolve_scheme(const ForeignLayout& layout, const KvImportOptions& options, KvPart part) {
  const auto [dim, heads, bits, tokens] = options.shape;
  if (!options.rotation && !layout.rotation) ask_for(layout, "--rotation rht1, rht2 or qr");
  if (!options.seed && !layout.seeds) ask_for(layout, "--seed");
  if (options.codebook.empty() && layout.codebook.empty()) {
    ask_for(layout, "--codebook vj, beta, gaussian, gaussian-3-sigma, equal-probability or a file");
  }
  Scheme scheme;
  scheme.bits = bits;
  scheme.dim = dim;
  scheme.rotation = options.rotation ? *options.rotation : *layout.rotation;
  scheme.seed = options.seed ? *options.seed : (*layout.seeds)[part == KvPart::kValues ? 1 : 0];
  scheme.codebook = options.codebook.empty() ? std::string(layout.codebook) : options.codebook;
  if (scheme.rotation != RotationKind::kQr && !std::has_single_bit(static_cast<unsigned>(dim))) {
    throw UsageError(fmt::format(
        "--rotation {} needs a --dim that is a power of two, and {} is none: at other dims the "
        "published systems do not rotate orthogonally",
        name_of(scheme.rotation), dim));
  }
  return scheme;
}

void check_finite(const KvImport& import, const KvImport::Tensor& tensor, std::int64_t first,
                  std::int64_t count, std::span<const std::byte> rows) {
  const std::int64_t dim = tensor.codec->scheme().dim;
  std::vector<float> values(rows.size() / size_of(tensor.spec.dtype));
  convert_to_float(tensor.spec.dtype, rows.data(), static_cast<std::int64_t>(values.size()),
                   values.data());
  const auto bad =
      std::find_if(values.begin(), values.end(), [](float x) { return !std::isfinite(x); });
  if (bad == values.end()) return;
  const std::int64_t row = (bad - values.begin()) / dim;
  throw Error(
      fmt::format("{}: {}: head {}, token {}: a reconstructed value is too large for {}; {}",
                  import.file.file().path(), tensor.spec.name, row / count, first + row % count,
                  name_of(tensor.spec.dtype),
                  tensor.spec.dtype == DType::kF16 ? "use --dtype bf16 or f32"
                                                   : "look at the norms of the file"));
}

std::vector<TensorSpec> list_specs(const KvImport& import) {
  std::vector<TensorSpec> specs;
  for (const KvImport::Tensor& tensor : import.tensors) specs.push_back(tensor.spec);
  return specs;
}

}  // namespace

std::uint64_t KvImport::input_bytes() const {
  return tensors.size() * static_cast<std::uint64_t>(file.tokens() * file.token_bytes());
}

std::uint64_t KvImport::output_bytes() const {
  return SafetensorsWriter(list_specs(*this)).total_bytes();
}

KvImport open_import(const std::string& path, const KvImportOptions& options) {
  const ForeignLayout& layout = find_foreign_layout(options.layout);
  check_foreign_shape(layout, options.shape);
  const std::vector<KvPart> parts = choose_parts(layout, options.part);
  std::vector<Scheme> schemes;
  for (const KvPart part : parts) schemes.push_back(resolve_scheme(layout, options, part));
  const auto [dim, heads, bits, given_tokens] = options.shape;
  const std::optional<Codebook> published = find_published(schemes[0].codebook, dim, bits);

  // From here on the command line is sound; what follows depends on files.
  KvImport import{ForeignFile::open(path, layout, options.shape), {}};
  const Codebook codebook = published ? *published : read_codebook(schemes[0].codebook, dim, bits);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::string name =
        fmt::format("{}.{}", parts[i] == KvPart::kKeys ? "k" : "v", options.layer);
    std::shared_ptr<const Codec> codec;
    if (i > 0 && schemes[i] == schemes[0]) {
      codec = import.tensors[0].codec;
    } else {
      const Rotation rotation(schemes[i].rotation, schemes[i].seed, schemes[i].dim);
      codec = std::make_shared<const Codec>(schemes[i], codebook, rotation.matrix(),
                                            std::vector<float>(), path);
    }
    import.tensors.push_back({parts[i],
                              {name,
                               options.dtype,
                               { heads,
                                 import.file.tokens(),
                                 dim }},
                              std::move(codec)});
  }
  return import;
}

void import_kv(const KvImport& import, const Backend& backend, const std::string& path,
               const RunOptions& run) {
  SafetensorsWriter writer(list_specs(import));
  writer.create(path, run.overwrite);

  const std::int64_t heads = import.file.heads();
  const std::int64_t tokens = import.file.tokens();
  for (std::size_t index = 0; index < import.tensors.size(); ++index) {
    const KvImport::Tensor& tensor = import.tensors[index];
    const Scheme& scheme = tensor.codec->scheme();
    const auto row_bytes = static_cast<std::int64_t>(size_of(tensor.spec.dtype)) * scheme.dim;
    const std::int64_t step = std::max<std::int64_t>(1, kChunkBytes / (heads * row_bytes));
    parallel_for(run.threads, (tokens + step - 1) / step, [&](std::int64_t piece) {
      const std::int64_t first = piece * step;
      const std::int64_t count = std::min(step, tokens - first);
      std::vector<std::uint8_t> codes(
          static_cast<std::size_t>(heads * count * scheme.code_bytes()));
      std::vector<float> norms(static_cast<std::size_t>(heads * count));
      std::vector<std::byte> rows(static_cast<std::size_t>(heads * count * row_bytes));
      import.file.read_tokens(tensor.part, first, count, codes.data(), norms.data());
      backend.decode(*tensor.codec, codes.data(), norms.data(), heads * count, tensor.spec.dtype,
                     rows.data());
      check_finite(import, tensor, first, count, rows);
      for (std::int64_t head = 0; head < heads; ++head) {
        const auto run_bytes = static_cast<std::size_t>(count * row_bytes);
        writer.write(
            index, static_cast<std::uint64_t>((head * tokens + first) * row_bytes),
            std::span(rows).subspan(static_cast<std::size_t>(head) * run_bytes, run_bytes));
      }
      if (run.progress) run.progress(static_cast<std::uint64_t>(count * import.file.token_bytes()));
    });
  }
  writer.commit();
}

}  // namespace tq
