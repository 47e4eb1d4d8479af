# Decides whether the CUDA kernels can be built, as TESTBED_CUDA asks: sets TESTBED_CUDA_FOUND, and TESTBED_CUDA_FLAGS for
# the compiler. Under AUTO nothing that goes wrong with CUDA may break the build of the rest: the compiler must work
# (check_language), and the kernels themselves must compile with it for every architecture (try_compile), or they are
# left out with a warning. ON skips both questions, so that the errors are the compiler's own.
include(CheckLanguage)

set(TESTBED_CUDA_FOUND OFF)
if(TESTBED_CUDA STREQUAL "OFF")
  message(STATUS "CUDA kernels: left out (TESTBED_CUDA=OFF)")
  return()
endif()

# A100, H100, RTX 50; the last one also as PTX, which the driver translates for GPUs that are newer.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 120)
endif()
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(TESTBED_CUDA_FLAGS -Werror=all-warnings "-Xcompiler=-Wall,-Wextra,-Wconversion,-Wshadow,-Werror")

if(TESTBED_CUDA STREQUAL "AUTO")
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    message(STATUS "CUDA kernels: left out, no working nvcc (TESTBED_CUDA=ON makes this an error)")
    return()
  endif()
endif()

enable_language(CUDA)

if(TESTBED_CUDA STREQUAL "AUTO")
  set(main "${CMAKE_CURRENT_BINARY_DIR}/try_cuda/main.cu")  # linked too, so that a missing runtime library shows
  file(WRITE "${main}" "int main() { return 0; }\n")
  try_compile(TESTBED_CUDA_COMPILES "${CMAKE_CURRENT_BINARY_DIR}/try_cuda"
              SOURCES "${CMAKE_CURRENT_SOURCE_DIR}/kernels/cuda.cu" "${main}"
              CMAKE_FLAGS "-DCMAKE_CUDA_ARCHITECTURES=${CMAKE_CUDA_ARCHITECTURES}"
              COMPILE_DEFINITIONS ${TESTBED_CUDA_FLAGS}
              OUTPUT_VARIABLE output
              CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON)
  if(NOT TESTBED_CUDA_COMPILES)
    message(WARNING "CUDA kernels: left out, they do not compile (TESTBED_CUDA=ON makes this an error):\n${output}")
    return()
  endif()
endif()

message(STATUS "CUDA kernels: for architectures ${CMAKE_CUDA_ARCHITECTURES}")
set(TESTBED_CUDA_FOUND ON)
