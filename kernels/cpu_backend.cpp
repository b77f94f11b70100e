// The CPU backend: chooses one of the targets that were compiled in and that this machine can run.
#include <fmt/format.h>

#include <cstdlib>

#include "kernels/cpu_features.h"
#include "kernels/cpu_target.h"
#include "lib/backend.h"
#include "lib/error.h"
#include "lib/hash.h"

namespace tq {
namespace {

struct CpuTarget {
  const char* name;
  bool (*runs_here)();
  std::int64_t (*encode)(const EncodeArgs&);
  std::int64_t (*search)(const EncodeArgs&, const math::ScaleSearch&);
  void (*decode)(const DecodeArgs&);
  std::int64_t (*sketch)(const SketchArgs&);
  void (*add_sketches)(const SketchArgs&);
  void (*compare)(const CompareArgs&);
  std::uint64_t (*hash)(const void*, std::size_t);
};

// The functions of a target, in the order of CpuTarget.
#define TQ_FUNCTIONS(target) \
  target::encode_rows, target::search_rows, target::decode_rows, target::sketch_rows, target::add_sketches, \
      target::compare_rows, target::hash_bytes

constexpr CpuTarget kTargets[] = {
    {"scalar", runs_always, TQ_FUNCTIONS(scalar)},
#if defined(TQ_HAVE_SIMD128)
    {"simd128", runs_always, TQ_FUNCTIONS(simd128)},
#endif
#if defined(TQ_HAVE_AVX2)
    {"avx2", has_avx2, TQ_FUNCTIONS(avx2)},
#endif
#if defined(TQ_HAVE_AVX512)
    {"avx512", has_avx512, TQ_FUNCTIONS(avx512)},
#endif
};
#undef TQ_FUNCTIONS

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const CpuTarget& target) : target_(target) {}

  std::string name() const override { return fmt::format("cpu/{}", target_.name); }

  std::int64_t encode(const Codec& codec, DType dtype, const void* rows, std::int64_t count, std::uint8_t* codes,
                      float* norms) const override {
    const Scheme& scheme = codec.scheme();
    const EncodeArgs args{codec.rotation().view(), &codec.codebook(),
                          {scheme.norm, scheme.norm_dtype == DType::kF16, codec.divides_first()},
                          dtype, static_cast<const std::uint8_t*>(rows), count, codes, norms};
    if (codec.effort() == 0) return target_.encode(args);
    return target_.search(args, math::make_scale_search(codec.codebook(), codec.effort()));
  }

  void decode(const Codec& codec, const std::uint8_t* codes, const float* norms, std::int64_t count, DType dtype,
              void* rows) const override {
    target_.decode({codec.rotation().view(), &codec.codebook(), dtype, codes, norms, count,
                    static_cast<std::uint8_t*>(rows)});
  }

  std::int64_t sketch(const Codec& codec, DType dtype, const void* rows, const float* x_hat, std::int64_t count,
                      std::uint8_t* signs, float* norms) const override {
    return target_.sketch({codec.sketch_matrix().data(), codec.scheme().dim, codec.scheme().norm_dtype == DType::kF16,
                           dtype, static_cast<const std::uint8_t*>(rows), const_cast<float*>(x_hat), count, signs, norms});
  }

  void add_sketches(const Codec& codec, const std::uint8_t* signs, const float* norms, std::int64_t count,
                    float* x_hat) const override {
    target_.add_sketches({codec.sketch_matrix().data(), codec.scheme().dim, false, DType::kF32, nullptr, x_hat, count,
                          const_cast<std::uint8_t*>(signs), const_cast<float*>(norms)});
  }

  void compare(int dim, DType dtype, const void* x, DType hat_dtype, const void* x_hat, std::int64_t count,
               RowSums* sums) const override {
    target_.compare({dim, dtype, static_cast<const std::uint8_t*>(x), hat_dtype,
                     static_cast<const std::uint8_t*>(x_hat), count, sums});
  }

 private:
  const CpuTarget& target_;
};

const CpuTarget& widest_target() {
  const CpuTarget* widest = nullptr;
  for (const CpuTarget& target : kTargets) {
    if (target.runs_here()) widest = &target;
  }
  return *widest;
}

}  // namespace

std::uint64_t hash_bytes(std::span<const std::byte> bytes) {
  static const CpuTarget& target = widest_target();
  return target.hash(bytes.data(), bytes.size());
}

std::vector<std::string> cpu_targets() {
  std::vector<std::string> names;
  for (const CpuTarget& target : kTargets) {
    if (target.runs_here()) names.emplace_back(target.name);
  }
  return names;
}

std::unique_ptr<Backend> make_cpu_backend(std::string_view name) {
  for (const CpuTarget& target : kTargets) {
    if (target.name == name && target.runs_here()) return std::make_unique<CpuBackend>(target);
  }
  throw Error(fmt::format("CPU target '{}' is not to be had here: this build and machine offer {}", name,
                          fmt::join(cpu_targets(), ", ")));
}

std::unique_ptr<Backend> make_cpu_backend() {
  const char* forced = std::getenv("TQ_CPU");
  if (forced == nullptr || *forced == '\0') return make_cpu_backend(cpu_targets().back());
  try {
    return make_cpu_backend(forced);
  } catch (const Error& error) {
    throw Error(fmt::format("TQ_CPU: {}", error.what()));
  }
}

}  // namespace tq
