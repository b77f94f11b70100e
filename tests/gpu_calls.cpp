// The calls of the CUDA backend beside gpu_parity's: the sums of rows, and calls from many threads at once. Both must give the
// CPU's bits.
//
//   gpu_calls [N]      CUDA device N, by default 0
//   gpu_calls TARGET   a CPU target (such as avx2) in the GPU's place
//
// Exit 0: the same; 1: a difference; 3: could not run; 77: no GPU here, counted as skipped by CTest.
#include <fmt/format.h>

#include <atomic>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/gpu_backend.h"
#include "lib/convert.h"
#include "lib/error.h"
#include "lib/parallel.h"

namespace tq {
namespace {

constexpr int kSkipped = 77;
constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBf16};

std::vector<std::uint8_t> make_rows(DType dtype, std::int64_t values, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(values));
  for (float& value : x) value = normal(generator);
  std::vector<std::uint8_t> bytes(x.size() * size_of(dtype));
  convert_from_float(x.data(), values, dtype, bytes.data());
  return bytes;
}

/// Every pair of types, dims that fill no lane, one lane and many; more rows than go at once. Returns the cases that differ.
int compare_sums(const Backend& reference, const Backend& tested) {
  int different = 0;
  for (const int dim : {1, 7, 8, 9, 96, 128, 1023, 4099}) {
    const std::int64_t count = dim == 128 ? 20'011 : 301;
    for (const DType x_type : kDTypes) {
      for (const DType hat_type : kDTypes) {
        const auto x = make_rows(x_type, count * dim, 1), x_hat = make_rows(hat_type, count * dim, 2);
        std::vector<RowSums> sums[2];
        for (const int which : {0, 1}) {
          sums[which].resize(static_cast<std::size_t>(count));
          (which == 0 ? reference : tested).compare(dim, x_type, x.data(), hat_type, x_hat.data(), count, sums[which].data());
        }
        if (std::memcmp(sums[0].data(), sums[1].data(), sums[0].size() * sizeof(RowSums)) == 0) continue;
        fmt::print("sums of rows of {}, {} and {}: DIFFERENT\n", dim, name_of(x_type), name_of(hat_type));
        ++different;
      }
    }
  }
  return different;
}

/// Threads that encode and decode with different codecs at once, again and again. Returns the calls that differ.
int call_at_once(const Backend& reference, const Backend& tested, std::int64_t rows, std::int64_t rounds) {
  constexpr int kThreads = 24;
  struct Work {
    Codec codec;
    DType dtype;
    std::int64_t count;
    std::vector<std::uint8_t> rows, codes, decoded;
    std::vector<float> norms;
  };
  std::vector<Work> all;
  for (int i = 0; i < kThreads; ++i) {
    // Types that share a kernel and differ in the shared memory that they ask for meet, at dims of every kind of kernel.
    constexpr int kDims[] = {64, 128, 80, 96};
    constexpr DType kTypes[] = {DType::kBf16, DType::kF32, DType::kF16};
    const int dim = kDims[i % 4];
    const DType dtype = kTypes[i / 4 % 3];
    const auto seed = static_cast<std::uint32_t>(i);
    Work work{Codec(default_scheme(3, dim, RotationKind::kRht2, seed)), dtype, rows + rows / 8 * i, {}, {}, {}, {}};
    work.rows = make_rows(dtype, work.count * dim, seed);
    work.codes.resize(static_cast<std::size_t>(work.count * work.codec.scheme().code_bytes()));
    work.norms.resize(static_cast<std::size_t>(work.count));
    work.decoded.resize(static_cast<std::size_t>(work.count * dim) * size_of(dtype));
    reference.encode(work.codec, dtype, work.rows.data(), work.count, work.codes.data(), work.norms.data());
    reference.decode(work.codec, work.codes.data(), work.norms.data(), work.count, dtype, work.decoded.data());
    all.push_back(std::move(work));
  }
  std::atomic<int> different = 0;
  parallel_for(kThreads, kThreads * rounds, [&](std::int64_t piece) {
    const Work& work = all[static_cast<std::size_t>(piece % kThreads)];
    std::vector<std::uint8_t> codes(work.codes.size()), decoded(work.decoded.size());
    std::vector<float> norms(work.norms.size());
    tested.encode(work.codec, work.dtype, work.rows.data(), work.count, codes.data(), norms.data());
    tested.decode(work.codec, work.codes.data(), work.norms.data(), work.count, work.dtype, decoded.data());
    const bool same = codes == work.codes && norms == work.norms && decoded == work.decoded;
    if (!same) ++different;
  });
  if (different > 0) fmt::print("calls at once: {} of {} DIFFERENT\n", different.load(), kThreads * rounds);
  return different;
}

int run(const std::string& which) {
  const bool gpu = which.find_first_not_of("0123456789") == std::string::npos;
  if (const std::string missing = describe_missing_cuda(); gpu && !missing.empty()) {
    fmt::print("skipped, no GPU: {}\n", missing);
    return kSkipped;
  }
  const auto reference = make_cpu_backend("scalar");
  const auto tested = gpu ? make_cuda_backend(std::stoi(which)) : make_cpu_backend(which);
  const int different = compare_sums(*reference, *tested) + call_at_once(*reference, *tested, 1000, 60) +
                        call_at_once(*reference, *tested, 40, 2000);  // short ones: launches follow each other closely
  fmt::print("{} against {}: {}\n", tested->name(), reference->name(), different == 0 ? "every bit is the same" : "NOT THE SAME");
  return different == 0 ? 0 : 1;
}

}  // namespace
}  // namespace tq

int main(int argc, char** argv) {
  try {
    return tq::run(argc > 1 ? argv[1] : "0");
  } catch (const std::exception& error) {
    fmt::print(stderr, "gpu_calls: {}\n", error.what());
    return 3;
  }
}
