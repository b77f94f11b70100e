// What the CUDA target offers: the launchers of encode.cu, search.cu, decode.cu, qjl.cu and compare.cu, the counterpart of cpu_target.h.
// gpu_backend.cpp moves the data and calls them. No CUDA type is named here, so host code can include it.
#pragma once

#include <cstdint>

#include "kernels/cpu_target.h"
#include "kernels/gpu_launch.h"

namespace tq::cuda {

/// Starts encoding on the current device's default stream, of which every host thread has its own. All pointers in `args` are to
/// device memory but `codebook`; that is on the host and goes to the kernel by value. Rows start at multiples of the element's size.
/// *first_refused (device memory) becomes the smaller of its value and the first row that cannot be coded.
/// Throws Error for bits, dim, dtype or count out of range and when CUDA refuses the launch. Does not wait for the end.
void encode_rows(const EncodeArgs& args, unsigned long long* first_refused);

/// The same with the scale search, as in cpu_target.h.
void search_rows(const EncodeArgs& args, const math::ScaleSearch& search, unsigned long long* first_refused);

/// The same for decoding.
void decode_rows(const DecodeArgs& args);

/// The same for the sketch of residuals, and for adding it to the rows in args.x_hat.
void sketch_rows(const SketchArgs& args, unsigned long long* first_refused);
void add_sketches(const SketchArgs& args);

/// The same for the sums of each row; rows of any length.
void compare_rows(const CompareArgs& args);

/// The fast kernels. False, and nothing is done, for what they do not take.
bool encode_tile_rows(const EncodeArgs& args, unsigned long long* first_refused);
bool decode_tile_rows(const DecodeArgs& args);

/// Dims 64, 128, 256 under a Sylvester rotation or 96 under H_12, 2 to 4 bits, and arrays that start at multiples of 16 bytes.
bool has_tiles(const math::RotationView& rotation, int bits, const void* rows, const void* codes);

/// Blocks of a kernel that the current device runs at once, each with `shared_bytes` of dynamic shared memory. Throws Error
/// when CUDA does.
int resident_blocks(const void* kernel, int threads, int shared_bytes);

/// True if this build holds machine code, or code that the driver can translate, for the current device.
bool has_code_for_device();

/// Throws Error that names what is out of range: bits 1..8, dim 1..1024, F32 F16 or BF16, count 1..kMaxLaunchRows.
void check_launch(const char* kernel, int bits, int dim, DType dtype, std::int64_t count);

}  // namespace tq::cuda
