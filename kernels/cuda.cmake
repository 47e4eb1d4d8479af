# The CUDA kernels, as TESTBED_CUDA asks.
#
# ON builds them here, and every error is the build's. Under AUTO nothing that is wrong with CUDA (no compiler, one that does
# not know an architecture or the host's compiler, kernels that do not compile or link) may break the build of the rest. So
# they are built by a CMake of their own, under ON, while this one configures: if that fails, they are left out.
if(TESTBED_CUDA STREQUAL "ON")
  # A100, H100, RTX 50; the last one also as PTX, which the driver translates for GPUs that are newer.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 120)
  endif()
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
  enable_language(CUDA)

  add_library(testbed_cuda_kernels OBJECT kernels/cuda.cu)
  target_compile_options(testbed_cuda_kernels PRIVATE
                         -Werror=all-warnings "-Xcompiler=-Wall,-Wextra,-Wconversion,-Wshadow,-Werror")
  testbed_module(testbed_cuda $<TARGET_OBJECTS:testbed_cuda_kernels>)
  set_target_properties(testbed_cuda PROPERTIES LINKER_LANGUAGE CUDA)
  message(STATUS "CUDA kernels: for architectures ${CMAKE_CUDA_ARCHITECTURES}")
  return()
elseif(TESTBED_CUDA STREQUAL "OFF")
  message(STATUS "CUDA kernels: left out (TESTBED_CUDA=OFF)")
  return()
endif()

set(cuda_build "${CMAKE_CURRENT_BINARY_DIR}/cuda")
set(cuda_settings "")
get_cmake_property(cached CACHE_VARIABLES)
foreach(name IN LISTS cached)
  if(name MATCHES "^(CMAKE_CUDA_|CUDAToolkit_|CMAKE_CXX_COMPILER$|CMAKE_MAKE_PROGRAM$|CMAKE_BUILD_TYPE$)")
    string(REPLACE ";" "\\;" value "${${name}}")
    list(APPEND cuda_settings "-D${name}=${value}")
  endif()
endforeach()

message(STATUS "CUDA kernels: trying")
execute_process(COMMAND "${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_SOURCE_DIR}" -B "${cuda_build}" -G "${CMAKE_GENERATOR}"
                        -DTESTBED_CUDA=ON "-DTENSORRT_INCLUDE_DIR=" ${cuda_settings}
                TIMEOUT 600 RESULT_VARIABLE failed OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(NOT failed)
  execute_process(COMMAND "${CMAKE_COMMAND}" --build "${cuda_build}" --target testbed_cuda --config Release
                  TIMEOUT 600 RESULT_VARIABLE failed OUTPUT_VARIABLE output ERROR_VARIABLE output)
endif()
file(WRITE "${cuda_build}.log" "${output}")

find_file(TESTBED_CUDA_LIBRARY testbed_cuda${CMAKE_SHARED_MODULE_SUFFIX} NO_CACHE NO_DEFAULT_PATH
          PATHS "${cuda_build}" "${cuda_build}/Release")
if(failed OR NOT TESTBED_CUDA_LIBRARY)
  message(STATUS "CUDA kernels: left out, they do not build here (TESTBED_CUDA=ON makes this an error and shows it; "
                 "so does ${cuda_build}.log)")
  return()
endif()
message(STATUS "CUDA kernels: built")
configure_file("${TESTBED_CUDA_LIBRARY}" "${CMAKE_CURRENT_BINARY_DIR}" COPYONLY)  # beside the op, which looks for it there
install(FILES "${TESTBED_CUDA_LIBRARY}" DESTINATION testbed/_native)
# Editing them has this file read again, and so them built again.
file(GLOB cuda_sources kernels/*.h kernels/*.cu)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${cuda_sources})
