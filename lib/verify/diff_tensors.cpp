#include "lib/verify/diff_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <unordered_map>

#include "lib/error.h"
#include "lib/io/kv_file.h"
#include "lib/pack/weight_reader.h"

namespace tq {
namespace {

constexpr std::int64_t kPieceValues = std::int64_t{1} << 18;

/// A tensor of one side. `unit` values are read at a time at least: a row or a head of a KV file, else one value.
struct Side {
  std::string type;
  std::vector<std::int64_t> shape;
  std::int64_t values = 0;
  std::int64_t unit = 1;
  DType dtype = DType::kF32;  ///< of values that are compared as bytes
  std::function<void(std::int64_t first, std::int64_t count, float* out)> read;       ///< empty: not readable as floats
  std::function<void(std::int64_t first, std::int64_t count, std::byte* out)> bytes;  ///< of those
};

/// One collection, open.
struct Collection {
  std::optional<WeightReader> weights;
  std::optional<KvFile> kv;
  std::vector<std::string> names;
  std::unordered_map<std::string, Side> tensors;

  void add(const std::string& name, Side side) {
    names.push_back(name);
    tensors.emplace(name, std::move(side));
  }
};

void list_weights(Collection& c) {
  for (const WeightReader::Tensor& tensor : c.weights->tensors()) {
    Side side;
    side.type = tensor.bits != 0 ? fmt::format("{} bit", tensor.bits) : std::string(name_of(tensor.kept->info->dtype));
    side.shape = tensor.shape;
    side.values = tensor.values();
    const WeightReader* reader = &*c.weights;
    if (tensor.is_readable()) {
      side.read = [reader, &tensor](std::int64_t first, std::int64_t count, float* out) {
        reader->read_values(tensor, first, count, out);
      };
    } else {
      side.dtype = tensor.kept->info->dtype;
      side.bytes = [reader, &tensor](std::int64_t first, std::int64_t count, std::byte* out) {
        const std::size_t size = size_of(tensor.kept->info->dtype);
        reader->checkpoint().read(*tensor.kept, static_cast<std::uint64_t>(first) * size,
                                  {out, static_cast<std::size_t>(count) * size});
      };
    }
    c.add(tensor.name, std::move(side));
  }
}

void list_kv(Collection& c, const Backend& backend) {
  for (const PackedLayer& layer : c.kv->layers()) {
    for (const PackedTensor* tensor : {&layer.k, &layer.v}) {
      Side side;
      side.type = format_cache_scheme(tensor->parts.front().scheme) + (tensor->parts.size() > 1 ? " (by head)" : "");
      side.shape = tensor->source.shape;
      side.values = tensor->rows() * tensor->dim;
      const PackedHeads& part = tensor->parts.front();
      const bool by_row = tensor->parts.size() == 1 && part.scheme.is_plain();
      side.unit = by_row ? tensor->dim : tensor->tokens * tensor->dim;
      const KvFile* file = &*c.kv;
      side.read = [file, tensor, by_row, &backend](std::int64_t first, std::int64_t count, float* out) {
        if (by_row) {
          CodedRows coded;
          file->read_rows(tensor->parts.front(), first / tensor->dim, count / tensor->dim, coded);
          decode_rows(backend, *tensor->parts.front().codec->rows(), coded, Decode::kInnerProduct, DType::kF32, out);
          return;
        }
        const std::int64_t size = tensor->tokens * tensor->dim;
        for (std::int64_t at = 0; at < count; at += size) {
          const std::int64_t head = (first + at) / size;
          const std::vector<float> rows = decode_head(backend, *tensor->part_of(head).codec, file->read_head(*tensor, head),
                                                      Decode::kInnerProduct);
          std::copy(rows.begin(), rows.end(), out + at);
        }
      };
      c.add(tensor->name, std::move(side));
    }
  }
}

std::unique_ptr<Collection> open_collection(const std::string& path, const Backend& backend, int threads) {
  auto c = std::make_unique<Collection>();
  std::error_code ignored;
  if (std::filesystem::is_regular_file(path, ignored)) {
    if (KvFile::claims(SafetensorsFile::open(path))) {
      c->kv.emplace(KvFile::open(path));
      c->kv->check_payload(threads);
      list_kv(*c, backend);
      return c;
    }
    c->weights.emplace(WeightReader::open_file(path, backend));
  } else {
    c->weights.emplace(WeightReader::open(find_model_dir(path), backend));
    c->weights->check_hashes(threads);
  }
  list_weights(*c);
  return c;
}

/// What one piece of a tensor adds.
struct Part {
  std::int64_t differing = 0;
  double max_abs = 0, error = 0, energy = 0;
};

Part compare_floats(const std::vector<float>& a, const std::vector<float>& b) {
  Part part;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = a[i];
    const double energy = x * x;
    if (std::isfinite(energy)) part.energy += energy;
    if (std::memcmp(&a[i], &b[i], sizeof(float)) == 0) continue;
    ++part.differing;
    const double difference = std::abs(x - static_cast<double>(b[i]));
    part.max_abs = std::max(part.max_abs, std::isfinite(difference) ? difference : std::numeric_limits<double>::infinity());
    part.error += std::isfinite(difference) ? difference * difference : std::numeric_limits<double>::infinity();
  }
  return part;
}

Part compare_piece(const Side& a, const Side& b, std::int64_t first, std::int64_t count) {
  if (a.read) {
    std::vector<float> x(static_cast<std::size_t>(count));
    std::vector<float> y(x.size());
    a.read(first, count, x.data());
    b.read(first, count, y.data());
    return compare_floats(x, y);
  }
  const std::size_t size = size_of(a.dtype);
  std::vector<std::byte> x(static_cast<std::size_t>(count) * size);
  std::vector<std::byte> y(x.size());
  a.bytes(first, count, x.data());
  b.bytes(first, count, y.data());
  Part part;
  for (std::size_t i = 0; i < x.size(); i += size) part.differing += std::memcmp(&x[i], &y[i], size) != 0 ? 1 : 0;
  if (part.differing > 0) part.max_abs = part.error = std::numeric_limits<double>::quiet_NaN();
  return part;
}

TensorDiff compare_tensors(const std::string& name, const Side& a, const Side& b, int threads, const Progress& progress) {
  TensorDiff diff;
  diff.name = name;
  diff.type_a = a.type;
  diff.type_b = b.type;
  diff.shape_a = a.shape;
  diff.shape_b = b.shape;
  if (a.shape != b.shape || (a.read == nullptr) != (b.read == nullptr) || (!a.read && a.dtype != b.dtype)) {
    diff.state = DiffState::kShape;
    return diff;
  }
  const std::int64_t unit = std::lcm(a.unit, b.unit);
  const std::int64_t step = std::max<std::int64_t>(1, kPieceValues / unit) * unit;
  Part sum;
  const auto count = (a.values + step - 1) / step;
  std::vector<Part> parts(static_cast<std::size_t>(std::max(threads, 1)));
  parallel_ordered(
      threads, count,
      [&](std::int64_t piece, int worker) {
        parts[static_cast<std::size_t>(worker)] =
            compare_piece(a, b, piece * step, std::min(step, a.values - piece * step));
      },
      [&](std::int64_t piece, int worker) {
        const Part& part = parts[static_cast<std::size_t>(worker)];
        sum.differing += part.differing;
        sum.max_abs = std::isnan(part.max_abs) ? part.max_abs : std::max(sum.max_abs, part.max_abs);
        sum.error += part.error;
        sum.energy += part.energy;
        if (progress) progress(static_cast<std::uint64_t>(std::min(step, a.values - piece * step)));
      });
  diff.values = a.values;
  diff.differing = sum.differing;
  diff.max_abs = sum.max_abs;
  diff.relative_mse = sum.energy > 0 ? sum.error / sum.energy : sum.error > 0 ? 1 : sum.error;
  diff.state = sum.differing > 0 ? DiffState::kDifferent : a.type != b.type ? DiffState::kStorage : DiffState::kIdentical;
  return diff;
}

}  // namespace

std::string_view name_of(DiffState state) {
  switch (state) {
    case DiffState::kIdentical: return "identical";
    case DiffState::kStorage: return "storage";
    case DiffState::kDifferent: return "different";
    case DiffState::kShape: return "shape";
    case DiffState::kOnlyA: return "only in A";
    case DiffState::kOnlyB: break;
  }
  return "only in B";
}

bool DiffReport::equal() const {
  return std::all_of(tensors.begin(), tensors.end(),
                     [](const TensorDiff& tensor) { return tensor.state == DiffState::kIdentical; });
}

DiffReport diff_tensors(const std::string& path_a, const std::string& path_b, const Backend& backend, int threads,
                        const Progress& progress) {
  const auto a = open_collection(path_a, backend, threads);
  const auto b = open_collection(path_b, backend, threads);
  if (a->kv.has_value() != b->kv.has_value()) {
    throw Error(fmt::format("{} is a .tq3 KV file, and {} is not; compare two of a kind", a->kv ? path_a : path_b,
                            a->kv ? path_b : path_a));
  }
  DiffReport report;
  report.a = path_a;
  report.b = path_b;
  for (const std::string& name : a->names) {
    const Side& side = a->tensors.at(name);
    if (const auto other = b->tensors.find(name); other != b->tensors.end()) {
      report.tensors.push_back(compare_tensors(name, side, other->second, threads, progress));
    } else {
      report.tensors.push_back({name, DiffState::kOnlyA, side.type, "", side.shape, {}, 0, 0, 0, 0});
    }
  }
  for (const std::string& name : b->names) {
    if (a->tensors.contains(name)) continue;
    const Side& side = b->tensors.at(name);
    report.tensors.push_back({name, DiffState::kOnlyB, "", side.type, {}, side.shape, 0, 0, 0, 0});
  }
  return report;
}

}  // namespace tq
