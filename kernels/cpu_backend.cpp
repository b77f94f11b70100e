// The CPU backend: chooses one of the targets that were compiled in and that this machine can run.
#include <fmt/format.h>

#include <cstdlib>

#include "kernels/cpu_target.h"
#include "lib/backend.h"
#include "lib/error.h"
#include "lib/math/convert.h"

namespace tq {
namespace {

struct CpuTarget {
  const char* name;
  bool (*runs_here)();
  std::int64_t (*encode)(const EncodeArgs&);
  void (*decode)(const DecodeArgs&);
};

bool always() { return true; }
#if defined(TQ_HAVE_AVX2)
bool has_avx2() { return __builtin_cpu_supports("avx2"); }
#endif
#if defined(TQ_HAVE_AVX512)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

constexpr CpuTarget kTargets[] = {
    {"scalar", always, scalar::encode_rows, scalar::decode_rows},
#if defined(TQ_HAVE_SIMD128)
    {"simd128", always, simd128::encode_rows, simd128::decode_rows},
#endif
#if defined(TQ_HAVE_AVX2)
    {"avx2", has_avx2, avx2::encode_rows, avx2::decode_rows},
#endif
#if defined(TQ_HAVE_AVX512)
    {"avx512", has_avx512, avx512::encode_rows, avx512::decode_rows},
#endif
};

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const CpuTarget& target) : target_(target) {}

  std::string name() const override { return fmt::format("cpu/{}", target_.name); }

  std::int64_t encode(const Codec& codec, DType dtype, const void* rows, std::int64_t count, std::uint8_t* codes,
                      float* norms) const override {
    return target_.encode({codec.rotation().view(), &codec.codebook(), dtype, static_cast<const std::uint8_t*>(rows),
                           count, codes, norms});
  }

  void decode(const Codec& codec, const std::uint8_t* codes, const float* norms, std::int64_t count, DType dtype,
              void* rows) const override {
    target_.decode({codec.rotation().view(), &codec.codebook(), dtype, codes, norms, count,
                    static_cast<std::uint8_t*>(rows)});
  }

 private:
  const CpuTarget& target_;
};

}  // namespace

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
  return make_cpu_backend(forced != nullptr && *forced != '\0' ? std::string(forced) : cpu_targets().back());
}

void convert_to_float(DType dtype, const void* from, std::int64_t count, float* to) {
  if (dtype == DType::kF32) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
    return;
  }
  const auto* halves = static_cast<const std::uint16_t*>(from);
  for (std::int64_t i = 0; i < count; ++i) {
    to[i] = dtype == DType::kF16 ? math::float_from_f16<std::int32_t>(halves[i])
                                 : math::float_from_bf16<std::int32_t>(halves[i]);
  }
}

void convert_from_float(const float* from, std::int64_t count, DType dtype, void* to) {
  if (dtype == DType::kF32) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
    return;
  }
  auto* halves = static_cast<std::uint16_t*>(to);
  for (std::int64_t i = 0; i < count; ++i) {
    halves[i] = static_cast<std::uint16_t>(dtype == DType::kF16 ? math::f16_from_float(from[i])
                                                                : math::bf16_from_float(from[i]));
  }
}

}  // namespace tq
