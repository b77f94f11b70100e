// What stands in for gpu_backend.cpp, gpu_bench.cpp and gpu_forward.cpp in a build without CUDA.
#include "kernels/gpu_backend.h"
#include "kernels/gpu_forward.h"
#include "lib/bench/device_bench.h"
#include "lib/error.h"

namespace tq {

std::string describe_missing_cuda() {
  return "this build has no CUDA; configure with -DTQ_CUDA=ON where nvcc is installed";
}

std::unique_ptr<Backend> make_cuda_backend(int) { throw Error("no GPU: " + describe_missing_cuda()); }

void limit_cuda_blocks(int) {}

std::unique_ptr<DeviceBench> make_device_bench(int) { throw Error("no GPU: " + describe_missing_cuda()); }

std::unique_ptr<CudaForwardDevice> make_cuda_forward(int) { throw Error("no GPU: " + describe_missing_cuda()); }

MeasureAttention make_cuda_attention_meter(int) { throw Error("no GPU: " + describe_missing_cuda()); }

}  // namespace tq
