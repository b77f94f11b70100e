# Finds nvcc (on PATH, or in the toolkit's default folder) as TQ_CUDA asks, compiles the kernels, and sets TQ_HAVE_CUDA,
# TQ_GPU_SOURCES, TQ_CUDA_OBJECTS and TQ_CUDA_LIBRARIES. With AUTO, an nvcc that cannot compile counts as none.
set(TQ_HAVE_CUDA OFF)
set(TQ_GPU_SOURCES kernels/gpu_backend_stub.cpp)
set(TQ_CUDA_OBJECTS)
set(TQ_CUDA_LIBRARIES)

# CMake cannot try a compiler without knowing what to compile for: the architectures come first, from nvcc itself.
if(NOT TQ_CUDA STREQUAL "OFF")
  find_program(TQ_NVCC nvcc HINTS ENV CUDACXX PATHS /usr/local/cuda/bin)
  if(TQ_NVCC)
    execute_process(COMMAND ${TQ_NVCC} --list-gpu-arch OUTPUT_VARIABLE tq_known_archs ERROR_QUIET)
    set(tq_architectures)
    foreach(arch IN ITEMS 80 86 89 90 100 120)
      if(tq_known_archs MATCHES "compute_${arch}\n")
        list(APPEND tq_architectures ${arch}-real)
      endif()
    endforeach()
    list(TRANSFORM tq_architectures REPLACE "120-real" "120")
    if(DEFINED ENV{CUDAARCHS})  # CMake's own variable for this: CI compiles for two
      set(tq_architectures $ENV{CUDAARCHS})
    endif()
    set(TQ_CUDA_ARCHITECTURES "${tq_architectures}" CACHE STRING
      "GPUs to compile for, as CMAKE_CUDA_ARCHITECTURES; by default also PTX of the newest, for GPUs to come")
    if(NOT CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES ${TQ_CUDA_ARCHITECTURES})
    endif()
    if(NOT CMAKE_CUDA_COMPILER)
      set(ENV{CUDACXX} ${TQ_NVCC})
    endif()
    include(CheckLanguage)
    check_language(CUDA)
  endif()
  if(CMAKE_CUDA_COMPILER)
    set(TQ_HAVE_CUDA ON)
  elseif(TQ_CUDA STREQUAL "ON" AND TQ_NVCC)
    message(FATAL_ERROR "TQ_CUDA=ON, and ${TQ_NVCC} cannot compile: see CMakeFiles/CMakeError.log in the build folder; "
                        "CUDAHOSTCXX names another host compiler")
  elseif(TQ_CUDA STREQUAL "ON")
    message(FATAL_ERROR "TQ_CUDA=ON, and nvcc is neither on PATH nor in /usr/local/cuda/bin")
  elseif(TQ_NVCC)
    message(STATUS "${TQ_NVCC} cannot compile (see CMakeFiles/CMakeError.log): building without CUDA")
  endif()
endif()
message(STATUS "CUDA kernels: ${TQ_HAVE_CUDA}")

# The exact tier: every operation rounds on its own, as on the CPU. Most of these flags are nvcc's defaults; they are
# written out because the bytes in a file depend on them.
set(TQ_CUDA_EXACT_FLAGS --fmad=false -prec-div=true -prec-sqrt=true -ftz=false -Xcompiler=-ffp-contract=off)

if(TQ_HAVE_CUDA)
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  find_file(TQ_CUBLASLT_HEADER cublasLt.h PATHS ${CUDAToolkit_INCLUDE_DIRS} NO_DEFAULT_PATH)
  if(NOT TQ_CUBLASLT_HEADER)
    message(FATAL_ERROR "nvcc is there, and cublasLt.h is not in ${CUDAToolkit_INCLUDE_DIRS}: install the toolkit's libcublas "
                        "for developers (libcublas-dev), or configure with -DTQ_CUDA=OFF")
  endif()
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)  # CMake 3.25 does not know that nvcc has it
  set(CMAKE_CUDA_FLAGS_RELEASE "-O3 -DNDEBUG")
  add_library(tq_cuda OBJECT
    kernels/encode.cu kernels/encode_tile.cu kernels/encode_tile_64.cu kernels/encode_tile_128.cu kernels/encode_tile_256.cu
    kernels/encode_lane_row.cu kernels/search.cu kernels/decode.cu kernels/decode_tile.cu kernels/decode_lane_row.cu
    kernels/qjl.cu kernels/compare.cu kernels/forward.cu
    kernels/attention_stats.cu)
  target_include_directories(tq_cuda PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_definitions(tq_cuda PRIVATE TQ_TARGET=cuda)
  # Every host thread has a stream of its own: calls of several threads overlap. Host code that calls CUDA has to agree.
  target_compile_options(tq_cuda PRIVATE --default-stream=per-thread ${TQ_CUDA_EXACT_FLAGS} -Werror=cross-execution-space-call
                                         -Xcompiler=-Wall,-Wextra,-Wshadow,-Wconversion)
  set(TQ_GPU_SOURCES kernels/gpu_backend.cpp kernels/gpu_bench.cpp kernels/gpu_gemm.cpp kernels/gpu_staging.cpp kernels/gpu_weights.cpp
                     kernels/gpu_attention.cpp kernels/gpu_forward.cpp kernels/gpu_attention_meter.cpp)
  set_source_files_properties(${TQ_GPU_SOURCES} PROPERTIES COMPILE_DEFINITIONS CUDA_API_PER_THREAD_DEFAULT_STREAM=1)
  set(TQ_CUDA_OBJECTS $<TARGET_OBJECTS:tq_cuda>)
  set(TQ_CUDA_LIBRARIES CUDA::cudart_static ${CMAKE_DL_LIBS})  # cuBLASLt is opened at run time
endif()
