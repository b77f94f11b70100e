#include "lib/verify/paper_subject.h"

#include <algorithm>

#include "lib/error.h"
#include "lib/parallel.h"

namespace tq {
namespace {

Codebook scale_levels(const Codebook& book, double factor) {
  std::vector<float> levels(book.levels, book.levels + (1 << book.bits));
  for (float& level : levels) level = static_cast<float>(level * factor);
  return make_codebook(levels);
}

/// Rows move by one place, the last to the front.
void shuffle_rows(std::vector<float>& rows, int dim) {
  std::rotate(rows.begin(), rows.end() - dim, rows.end());
}

}  // namespace

Codec PaperSubject::make_codec(const Scheme& scheme) const {
  Scheme used = scheme;
  if (rotation) used.rotation = *rotation;
  if (more_bits != 0) {
    used = default_scheme(scheme.bits + more_bits, scheme.dim, used.rotation, scheme.seed);
    used.qjl = scheme.qjl;
  }
  const Codec codec(used);
  if (level_factor == 1) return codec;
  return Codec(used, scale_levels(codec.codebook(), level_factor), codec.rotation().matrix(),
               codec.sketch_matrix(), "level_factor");
}

std::vector<float> draw_rows(std::uint32_t seed, std::uint32_t stream, std::int64_t count,
                             int dim) {
  const std::vector<double> normals =
      draw_normals(seed * 0x9e3779b9u + stream * 0x85ebca6bu + 1, static_cast<int>(count * dim));
  return {normals.begin(), normals.end()};
}

double inner_product(const float* x, const float* y, int dim) {
  double sum = 0;
  for (int i = 0; i < dim; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(y[i]);
  return sum;
}

std::vector<float> round_trip(const Backend& backend, const PaperSubject& subject,
                              const Codec& codec, const std::vector<float>& x) {
  const Scheme& scheme = codec.scheme();
  std::vector<float> out = x;
  if (!subject.exact) {
    CodedRows coded;
    const auto count = static_cast<std::int64_t>(x.size()) / scheme.dim;
    const std::int64_t refused = encode_rows(backend, codec, DType::kF32, x.data(), count, coded);
    if (refused >= 0) {
      const auto dim = static_cast<std::size_t>(scheme.dim);
      report_refused_row("verify --paper", scheme,
                         std::span(x).subspan(static_cast<std::size_t>(refused) * dim, dim));
    }
    for (float& norm : coded.residual_norms)
      norm = static_cast<float>(norm * subject.sketch_factor);
    decode_rows(backend, codec, coded, scheme.qjl ? Decode::kInnerProduct : Decode::kRow,
                DType::kF32, out.data());
  }
  if (subject.shuffled) shuffle_rows(out, scheme.dim);
  return out;
}

Estimate estimate_ratio(const std::vector<ClusterSums>& clusters) {
  Estimate out;
  double x = 0, y = 0, squares = 0;
  for (const ClusterSums& c : clusters) {
    x += c.x;
    y += c.y;
    out.samples += c.samples;
  }
  if (clusters.size() < 2 || x == 0) return out;
  out.value = y / x;
  for (const ClusterSums& c : clusters)
    squares += (c.y - out.value * c.x) * (c.y - out.value * c.x);
  const auto count = static_cast<double>(clusters.size());
  out.standard_error = std::sqrt(count / (count - 1) * squares) / std::abs(x);
  return out;
}

std::vector<ClusterSums> measure_clusters(
    int threads, std::int64_t count,
    const std::function<ClusterSums(std::int64_t cluster)>& measure) {
  std::vector<ClusterSums> out(static_cast<std::size_t>(count));
  parallel_for(threads, count, [&](std::int64_t cluster) {
    out[static_cast<std::size_t>(cluster)] = measure(cluster);
  });
  return out;
}

}  // namespace tq
