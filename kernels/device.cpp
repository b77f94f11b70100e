#include "lib/device.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>

#include "kernels/gpu_backend.h"
#include "kernels/gpu_forward.h"
#include "lib/error.h"

namespace tq {

DeviceChoice parse_device(std::string_view text) {
  if (text == "auto") return {DeviceKind::kAuto, 0};
  if (text == "cpu") return {DeviceKind::kCpu, 0};
  if (text == "cuda") return {DeviceKind::kCuda, 0};
  constexpr std::string_view kNumbered = "cuda:";
  DeviceChoice choice{DeviceKind::kCuda, 0};
  if (text.starts_with(kNumbered)) {
    const char* const last = text.data() + text.size();
    const auto [end, error] = std::from_chars(text.data() + kNumbered.size(), last, choice.number);
    if (error == std::errc() && end == last && choice.number >= 0) return choice;
  }
  throw UsageError(fmt::format("'{}' is none of auto, cpu, cuda, cuda:N", text));
}

Device open_device(const DeviceChoice& choice) {
  if (choice.kind == DeviceKind::kCuda) return {make_cuda_backend(choice.number), choice.number, "", true};
  const char* const cpu_target = std::getenv("TQ_CPU");  // who names one means the CPU
  const bool wants_cpu = choice.kind == DeviceKind::kCpu || (cpu_target != nullptr && *cpu_target != '\0');
  if (wants_cpu || !describe_missing_cuda().empty()) return {make_cpu_backend(), std::nullopt, "", false};
  try {
    return {make_cuda_backend(choice.number), choice.number, "", false};
  } catch (const Error& error) {
    return {make_cpu_backend(), std::nullopt, fmt::format("the GPU is not used: {}", error.what()), false};
  }
}

ModelDevice open_model_device(const Device& device) {
  if (!device.cuda) return {};
  try {
    return {make_cuda_forward(*device.cuda), make_cuda_attention_meter(*device.cuda), ""};
  } catch (const Error& error) {
    if (device.is_asked) throw;
    return {nullptr, measure_attention, fmt::format("attention and models run on the CPU: {}", error.what())};
  }
}

}  // namespace tq
