// The CUDA backend, and why there may be none. In a build without CUDA both functions exist and say so.
#pragma once

#include <memory>
#include <string>

#include "lib/backend.h"

namespace tq {

/// Why no CUDA device can be used, and what to do, in one line that fits after "no GPU: ": the build has no CUDA, no driver, no device.
/// Empty if there is a device.
std::string describe_missing_cuda();

/// The backend of CUDA device 0, 1, ... It writes the same bytes as the CPU's. Rows lie in host memory and pass through
/// buffers of at most 15 MB for each thread that calls at the same time, page-locked on the host and as many on the device; device
/// memory that the kernels themselves need comes on top, see docs/kernels.md. Throws Error if the device does not exist, or if this build has no code for it.
std::unique_ptr<Backend> make_cuda_backend(int device);

/// For tests: at most so many blocks of a fast kernel run at once, so that few rows take many turns of its loop. 0: as many as fit.
void limit_cuda_blocks(int most);

}  // namespace tq
