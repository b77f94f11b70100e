#include "lib/verify/verify_weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "lib/convert.h"
#include "lib/error.h"

namespace tq {
namespace {

constexpr std::int64_t kPieceValues = std::int64_t{1} << 18;
constexpr std::int64_t kMostRowLength = std::int64_t{1} << 26;
constexpr std::int64_t kControlShare = 8;
constexpr double kOtherSeedLimit = 0.5;

/// A pair of tensors, and what has been found of it.
struct Pair {
  const WeightReader::Tensor* packed;
  const WeightReader::Tensor* source;
  ErrorStats stats, control;
  double max_abs_error = 0;
  double error_energy = 0, energy = 0;  // of a kept tensor
  bool same_values = true;
  GroupCounts groups;
};

/// Rows of a quantized tensor, values of one that is kept, or bytes of one that is no float.
struct Piece {
  std::size_t pair;
  std::int64_t first, count;
  bool with_control;
};

/// What one piece adds to its pair.
struct Part {
  ErrorStats stats, control;
  double max_abs_error = 0;
  double error_energy = 0, energy = 0;
  bool same_values = true;
  GroupCounts groups;
  std::vector<float> x, x_hat, other;
  std::vector<std::byte> stored, expected;
};

std::vector<Pair> pair_tensors(const WeightReader& packed, const WeightReader& source) {
  std::vector<Pair> pairs;
  for (const WeightReader::Tensor& tensor : packed.tensors()) {
    const WeightReader::Tensor* original = source.find(tensor.name);
    if (original == nullptr) {
      throw Error(fmt::format("{}: has no tensor {}, and {} has; compare it with the model that it was made from",
                              source.dir(), quote_name(tensor.name), packed.dir()));
    }
    if (original->shape != tensor.shape) {
      throw Error(fmt::format("{}: tensor {} is [{}], and in {} it is [{}]; compare it with the model that it was made from",
                              source.dir(), quote_name(tensor.name), fmt::join(original->shape, ", "), packed.dir(),
                              fmt::join(tensor.shape, ", ")));
    }
    if (tensor.bits != 0 && (tensor.row_length() > kMostRowLength || !original->is_readable())) {
      throw Error(fmt::format("{}: tensor {}: rows of {} values of {} cannot be compared", source.path_of(*original),
                              quote_name(tensor.name), tensor.row_length(), name_of(original->dtype)));
    }
    pairs.push_back({&tensor, original, {}, {}, 0, 0, 0, true, {}});
  }
  for (const WeightReader::Tensor& tensor : source.tensors()) {
    if (packed.find(tensor.name) != nullptr) continue;
    throw Error(fmt::format("{}: has no tensor {}, and {} has; the checkpoint is incomplete, or made from another model",
                            packed.dir(), quote_name(tensor.name), source.dir()));
  }
  return pairs;
}

std::vector<Piece> cut_pieces(const std::vector<Pair>& pairs) {
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const WeightReader::Tensor& tensor = *pairs[i].packed;
    const bool by_rows = tensor.bits != 0;
    const std::int64_t total = by_rows && tensor.row_length() > 0 ? tensor.rows() : tensor.values();
    const std::int64_t step = by_rows ? std::max<std::int64_t>(1, kPieceValues / std::max<std::int64_t>(tensor.row_length(), 1))
                                      : kPieceValues;
    std::int64_t number = 0;
    for (std::int64_t first = 0; first < total; first += step, ++number) {
      pieces.push_back({i, first, std::min(step, total - first), number % kControlShare == 0});
    }
  }
  return pieces;
}

class Comparison {
 public:
  Comparison(const WeightReader& packed, const WeightReader& other, const WeightReader& source)
      : packed_(packed), other_(other), source_(source) {
    for (const WeightReader::Tensor& tensor : packed.tensors()) {
      if (tensor.bits == 0) continue;
      Scheme nearest = tensor.quantized->codec->scheme();
      nearest.norm = NormMode::kCorrected;
      if (!nearest_.contains(tensor.bits)) nearest_.emplace(tensor.bits, Codec(nearest));
    }
  }

  void compare(const Pair& pair, const Piece& piece, Part& part) const {
    part.stats = part.control = ErrorStats();
    part.max_abs_error = part.error_energy = part.energy = 0;
    part.same_values = true;
    part.groups = GroupCounts();
    if (pair.packed->bits != 0) return compare_rows(pair, piece, part);
    if (pair.packed->is_readable() && pair.source->is_readable()) return compare_kept(pair, piece, part);
    compare_bytes(pair, piece, part);
  }

 private:
  void compare_rows(const Pair& pair, const Piece& piece, Part& part) const {
    const std::int64_t length = pair.packed->row_length();
    const auto values = static_cast<std::size_t>(piece.count * length);
    part.x.resize(values);
    part.x_hat.resize(values);
    source_.read_rows(*pair.source, piece.first, piece.count, part.x.data());
    packed_.read_rows(*pair.packed, piece.first, piece.count, part.x_hat.data());
    add_rows(pair, piece, part.x, part.x_hat, part.stats);
    for (std::size_t i = 0; i < values; ++i) {
      part.max_abs_error = std::max(part.max_abs_error, std::abs(static_cast<double>(part.x[i]) - part.x_hat[i]));
    }
    part.groups = count_groups(*pair.packed, piece);
    if (!piece.with_control) return;
    part.other.resize(values);
    other_.read_rows(*other_.find(pair.packed->name), piece.first, piece.count, part.other.data());
    add_rows(pair, piece, part.x, part.other, part.control);
  }

  GroupCounts count_groups(const WeightReader::Tensor& packed, const Piece& piece) const {
    const Tq3Tensor& tensor = *packed.quantized;
    const Backend& backend = packed_.backend();
    const Codec& nearest = nearest_.at(tensor.bits);
    const auto code_bytes = static_cast<std::size_t>(nearest.scheme().code_bytes());
    const auto dim = static_cast<std::size_t>(nearest.scheme().dim);
    const std::int64_t count = piece.count * tensor.groups;
    const auto lines = static_cast<std::size_t>(count);
    const auto first = static_cast<std::uint64_t>(piece.first * tensor.groups);
    std::vector<std::uint8_t> codes(lines * code_bytes);
    std::vector<std::uint8_t> again(codes.size());
    std::vector<float> norms(lines);
    std::vector<std::uint16_t> rows(lines * dim);
    packed_.checkpoint().read(*tensor.packed, first * code_bytes, std::as_writable_bytes(std::span(codes)));
    packed_.checkpoint().read(*tensor.norms, first * sizeof(float), std::as_writable_bytes(std::span(norms)));
    backend.decode(*tensor.codec, codes.data(), norms.data(), count, DType::kBf16, rows.data());
    const auto groups = static_cast<std::size_t>(tensor.groups);
    const std::size_t padding = groups * dim - static_cast<std::size_t>(packed.row_length());
    for (std::size_t end = groups; end <= lines; end += groups) {
      std::fill_n(rows.begin() + static_cast<std::ptrdiff_t>(end * dim - padding), padding, std::uint16_t{0});
    }
    const bool refused = backend.encode(nearest, DType::kBf16, rows.data(), count, again.data(), norms.data()) >= 0;
    GroupCounts counts;
    for (std::size_t line = 0; line < lines; ++line) {
      const bool changed = refused || std::memcmp(codes.data() + line * code_bytes, again.data() + line * code_bytes, code_bytes) != 0;
      const bool is_padded = padding > 0 && line % groups == groups - 1;
      (is_padded ? counts.padded : counts.whole) += 1;
      (is_padded ? counts.padded_changed : counts.whole_changed) += changed ? 1 : 0;
    }
    return counts;
  }

  void add_rows(const Pair& pair, const Piece& piece, const std::vector<float>& x, const std::vector<float>& x_hat,
                ErrorStats& stats) const {
    try {
      stats.add_rows(x.data(), x_hat.data(), piece.count, static_cast<int>(pair.packed->row_length()));
    } catch (const Error& error) {
      throw Error(fmt::format("{}: tensor {}, from row {} on: {}", source_.path_of(*pair.source), quote_name(pair.source->name),
                              piece.first, error.what()));
    }
  }

  void compare_kept(const Pair& pair, const Piece& piece, Part& part) const {
    const DType stored = pair.packed->kept->info->dtype;
    const auto bytes = static_cast<std::size_t>(piece.count) * size_of(stored);
    part.x.resize(static_cast<std::size_t>(piece.count));
    part.x_hat.resize(part.x.size());
    part.stored.resize(bytes);
    part.expected.resize(bytes);
    source_.read_values(*pair.source, piece.first, piece.count, part.x.data());
    packed_.checkpoint().read(*pair.packed->kept, static_cast<std::uint64_t>(piece.first) * size_of(stored), part.stored);
    convert_from_float(part.x.data(), piece.count, stored, part.expected.data());
    part.same_values = part.stored == part.expected;
    convert_to_float(stored, part.stored.data(), piece.count, part.x_hat.data());
    for (std::size_t i = 0; i < part.x.size(); ++i) {
      const double x = part.x[i];
      const double difference = x - static_cast<double>(part.x_hat[i]);
      if (!std::isfinite(difference)) continue;  // equal infinities, or told by same_values
      part.max_abs_error = std::max(part.max_abs_error, std::abs(difference));
      part.error_energy += difference * difference;
      part.energy += x * x;
    }
  }

  void compare_bytes(const Pair& pair, const Piece& piece, Part& part) const {
    const DType stored = pair.packed->kept->info->dtype;
    part.max_abs_error = WeightTensorReport::kNone;
    part.same_values = stored == pair.source->kept->info->dtype;
    if (!part.same_values) return;
    part.stored.resize(static_cast<std::size_t>(piece.count) * size_of(stored));
    part.expected.resize(part.stored.size());
    const auto offset = static_cast<std::uint64_t>(piece.first) * size_of(stored);
    packed_.checkpoint().read(*pair.packed->kept, offset, part.stored);
    source_.checkpoint().read(*pair.source->kept, offset, part.expected);
    part.same_values = part.stored == part.expected;
  }

  const WeightReader& packed_;
  const WeightReader& other_;
  const WeightReader& source_;
  std::map<int, Codec> nearest_;  ///< by bits
};

void merge_part(Pair& pair, const Part& part) {
  pair.stats.merge(part.stats);
  pair.control.merge(part.control);
  pair.max_abs_error = std::isnan(part.max_abs_error) ? part.max_abs_error : std::max(pair.max_abs_error, part.max_abs_error);
  pair.error_energy += part.error_energy;
  pair.energy += part.energy;
  pair.groups.add(part.groups);
  pair.same_values = pair.same_values && part.same_values;
}

WeightTensorReport report_pair(const Pair& pair) {
  const WeightReader::Tensor& packed = *pair.packed;
  WeightTensorReport report;
  report.name = packed.name;
  report.shape = packed.shape;
  report.bits = packed.bits;
  report.source_dtype = pair.source->kept != nullptr ? pair.source->kept->info->dtype : pair.source->dtype;
  report.stored_dtype = packed.kept != nullptr ? packed.kept->info->dtype : DType::kU8;
  report.source_bytes = pair.source->stored_bytes;
  report.stored_bytes = packed.stored_bytes;
  report.max_abs_error = pair.max_abs_error;
  if (packed.bits == 0) {
    report.state = !pair.same_values                              ? KeptState::kDifferent
                   : report.stored_dtype == report.source_dtype ? KeptState::kEqual
                                                                  : KeptState::kRounded;
    if (packed.is_readable()) {
      report.relative_mse = pair.energy > 0 ? pair.error_energy / pair.energy : pair.error_energy > 0 ? 1 : 0;
    }
    return report;
  }
  report.distortion = packed.quantized->codec->distortion();
  if (pair.stats.rows() == 0) return report;  // a tensor without values
  report.relative_mse = pair.stats.relative_mse();
  report.mse_ratio = report.relative_mse / report.distortion;
  report.cosine = pair.stats.cosine_flattened();
  report.cosine_min = pair.stats.cosine_min();
  report.worst_row = pair.stats.worst_row();
  report.norm_bias = pair.stats.norm_bias();
  report.groups = pair.groups;
  report.is_zero = pair.stats.x_energy() == 0;
  if (pair.control.x_energy() > 0) report.other_seed_mse = pair.control.relative_mse();
  return report;
}

/// A gate on one number of the quantized tensors. `control` is that number for the control that is nearest to passing.
template <class Value, class Control>
WeightGateReport judge_tensors(const std::vector<WeightTensorReport>& tensors, std::string name, double limit, Value&& value,
                               Control&& control) {
  WeightGateReport gate;
  gate.name = std::move(name);
  gate.limit = limit;
  for (const WeightTensorReport& tensor : tensors) {
    if (tensor.bits == 0 || std::isnan(tensor.relative_mse)) continue;
    const double number = value(tensor);
    if (std::isnan(number)) continue;
    if (gate.worst.empty() || !(number <= gate.value)) {
      gate.value = number;
      gate.worst = tensor.name;
    }
    if (!(number <= limit)) gate.passed = false;
    if (!tensor.is_zero && control(tensor) <= limit) gate.sensitive = false;
  }
  if (gate.worst.empty()) gate.sensitive = false;  // nothing was measured
  return gate;
}

std::vector<WeightGateReport> judge_report(const std::vector<WeightTensorReport>& tensors, const WeightGateOptions& options) {
  std::vector<WeightGateReport> gates;
  WeightGateReport kept;
  kept.name = "kept";
  for (const WeightTensorReport& tensor : tensors) {
    if (tensor.state != KeptState::kDifferent) continue;
    kept.value += 1;
    kept.passed = false;
    if (kept.worst.empty()) kept.worst = tensor.name;
  }
  gates.push_back(kept);
  gates.push_back(judge_tensors(
      tensors, "other-seed", kOtherSeedLimit,
      [](const WeightTensorReport& t) { return t.is_zero ? WeightTensorReport::kNone : t.relative_mse / t.other_seed_mse; },
      [](const WeightTensorReport&) { return 1.0; }));
  const auto least_control = [](const WeightTensorReport& t) { return std::fmin(1.0, t.other_seed_mse); };
  if (options.max_rel_mse) {
    gates.push_back(judge_tensors(
        tensors, "max-rel-mse", *options.max_rel_mse, [](const WeightTensorReport& t) { return t.relative_mse; }, least_control));
  }
  if (options.max_rel_mse_ratio) {
    gates.push_back(judge_tensors(
        tensors, "max-rel-mse-ratio", *options.max_rel_mse_ratio, [](const WeightTensorReport& t) { return t.mse_ratio; },
        [&](const WeightTensorReport& t) { return least_control(t) / t.distortion; }));
  }
  return gates;
}

Verdict overall(const std::vector<WeightGateReport>& gates) {
  const auto all = [&](auto&& holds) { return std::all_of(gates.begin(), gates.end(), holds); };
  if (!all([](const WeightGateReport& gate) { return gate.passed; })) return Verdict::kFail;
  return all([](const WeightGateReport& gate) { return gate.sensitive; }) ? Verdict::kPass : Verdict::kNotMeasured;
}

}  // namespace

std::string_view name_of(KeptState state) {
  switch (state) {
    case KeptState::kQuantized: return "quantized";
    case KeptState::kEqual: return "equal";
    case KeptState::kRounded: return "rounded";
    case KeptState::kDifferent: break;
  }
  return "different";
}

void GroupCounts::add(const GroupCounts& other) {
  whole += other.whole;
  whole_changed += other.whole_changed;
  padded += other.padded;
  padded_changed += other.padded_changed;
}

std::uint64_t count_values(const WeightReader& reader) {
  std::uint64_t values = 0;
  for (const WeightReader::Tensor& tensor : reader.tensors()) values += static_cast<std::uint64_t>(tensor.values());
  return values;
}

VerifyWeightsReport verify_weights(const WeightReader& packed, const WeightReader& other, const WeightReader& source,
                                   const VerifyWeightsOptions& options) {
  if (packed.tq3() == nullptr) {
    throw Error(fmt::format("{}: has no {}, so it is no native TQ3 checkpoint; 'tq diff' compares ordinary ones", packed.dir(),
                            kTq3ConfigName));
  }
  std::vector<Pair> pairs = pair_tensors(packed, source);
  packed.check_hashes(options.threads);

  // From here on the two have the same tensors, and the codes are those that were written.
  const std::vector<Piece> pieces = cut_pieces(pairs);
  const Comparison comparison(packed, other, source);
  std::vector<Part> parts(static_cast<std::size_t>(std::max(options.threads, 1)));
  const auto compare = [&](std::int64_t index, int worker) {
    const Piece& piece = pieces[static_cast<std::size_t>(index)];
    comparison.compare(pairs[piece.pair], piece, parts[static_cast<std::size_t>(worker)]);
  };
  const auto merge = [&](std::int64_t index, int worker) {
    const Piece& piece = pieces[static_cast<std::size_t>(index)];
    merge_part(pairs[piece.pair], parts[static_cast<std::size_t>(worker)]);
    const std::int64_t unit = pairs[piece.pair].packed->bits != 0 ? pairs[piece.pair].packed->row_length() : 1;
    if (options.progress) options.progress(static_cast<std::uint64_t>(piece.count * unit));
  };
  parallel_ordered(options.threads, static_cast<std::int64_t>(pieces.size()), compare, merge);

  VerifyWeightsReport report;
  report.packed_dir = packed.dir();
  report.source_dir = source.dir();
  report.hashes_checked = packed.has_hashes();
  double error = 0;
  double energy = 0;
  for (const Pair& pair : pairs) {
    report.tensors.push_back(report_pair(pair));
    report.source_bytes += report.tensors.back().source_bytes;
    report.stored_bytes += report.tensors.back().stored_bytes;
    if (pair.packed->bits != 0) {
      report.quantized_values += pair.packed->values();
      report.groups.add(pair.groups);
    }
    error += pair.stats.error_energy();
    energy += pair.stats.x_energy();
  }
  if (energy > 0) report.relative_mse = error / energy;
  report.gates = judge_report(report.tensors, options.gates);
  report.verdict = overall(report.gates);
  return report;
}

}  // namespace tq
