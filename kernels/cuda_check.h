// The one way a CUDA return code is looked at: what failed, and what was being done, becomes a tq::Error.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "lib/error.h"

namespace tq {

/// Throws Error "CUDA, <doing>: <CUDA's words> (<name of the code>)" unless `status` is cudaSuccess. Errors of kernels
/// that were started earlier surface here too, in whatever call comes next.
inline void check_cuda(cudaError_t status, const char* doing) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // else the next call that succeeds would seem to have failed
  throw Error(std::string("CUDA, ") + doing + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) +
              ")");
}

}  // namespace tq
