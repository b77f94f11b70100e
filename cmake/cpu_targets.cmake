# kernels/encode.cpp, search.cpp, decode.cpp, qjl.cpp, compare.cpp and hash.cpp, compiled once per instruction set. TQ_TARGET names the namespace, TQ_LANES the rows
# that go through the code at once. The bytes they write are equal: no contraction, no fast math.
set(TQ_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wconversion)
set(TQ_EXACT_FLAGS -ffp-contract=off -fno-math-errno -fno-trapping-math -Wno-psabi)  # vectors by value are all inlined

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(tq_default_targets scalar simd128 avx2 avx512)
else()
  set(tq_default_targets scalar simd128)
endif()
set(TQ_CPU_TARGETS "${tq_default_targets}" CACHE STRING "CPU targets to compile; scalar is always among them")

set(tq_lanes_scalar 1)
set(tq_lanes_simd128 4)
set(tq_lanes_avx2 8)
set(tq_lanes_avx512 16)
set(tq_flags_avx2 -mavx2 -mfma)
set(tq_fast_flags_avx2 -mfma)
set(tq_flags_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl)
set(tq_fast_flags_avx512 -mfma)

set(tq_kernel_flags -O3)
if(CMAKE_CXX_FLAGS MATCHES fsanitize)
  set(tq_kernel_flags -O1 -g0 -DTQ_SANITIZED)
endif()

set(TQ_CPU_OBJECTS)
set(TQ_CPU_DEFINITIONS)
foreach(target IN LISTS TQ_CPU_TARGETS)
  add_library(tq_cpu_${target} OBJECT kernels/encode.cpp kernels/search.cpp kernels/decode.cpp kernels/qjl.cpp kernels/compare.cpp
                                    kernels/hash.cpp)
  target_include_directories(tq_cpu_${target} PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_definitions(tq_cpu_${target} PRIVATE TQ_TARGET=${target} TQ_LANES=${tq_lanes_${target}})
  target_compile_options(tq_cpu_${target} PRIVATE ${TQ_WARNINGS} ${TQ_EXACT_FLAGS} ${tq_kernel_flags} ${tq_flags_${target}})
  add_library(tq_fast_${target} OBJECT kernels/matmul.cpp)  # the fast tier: may contract
  target_include_directories(tq_fast_${target} PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_definitions(tq_fast_${target} PRIVATE TQ_TARGET=${target} TQ_LANES=${tq_lanes_${target}})
  target_compile_options(tq_fast_${target} PRIVATE ${TQ_WARNINGS} ${tq_kernel_flags} -ffp-contract=fast -Wno-psabi
                                                   ${tq_flags_${target}} ${tq_fast_flags_${target}})
  string(TOUPPER ${target} upper)
  list(APPEND TQ_CPU_DEFINITIONS TQ_HAVE_${upper})
  list(APPEND TQ_CPU_OBJECTS $<TARGET_OBJECTS:tq_cpu_${target}> $<TARGET_OBJECTS:tq_fast_${target}>)
endforeach()
