// As much of the CUDA runtime as kernels/cuda.cu uses, on the host: compiled with a C++ compiler and this header instead of
// CUDA's, the kernels run without a GPU. Device memory is host memory; a launch runs its threads one after the other, in
// an order scrambled anew each time, so that a result that depends on scheduling shows. Statuses of launches are real,
// concurrency is not.
#ifndef TESTBED_CUDA_EMULATION_H
#define TESTBED_CUDA_EMULATION_H

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#define __host__
#define __device__
#define __global__

enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToDevice };
using cudaStream_t = struct Stream*;

struct dim3 {
  unsigned x;
  dim3(unsigned size = 1) : x(size) {}
};
struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

static thread_local dim3 blockIdx, blockDim, threadIdx;

template <typename Number>
void atomicAdd(Number* sum, Number more) {
  *sum += more;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  if (config->gridDim.x == 0 || config->blockDim.x == 0 || config->blockDim.x > 1024) return cudaErrorInvalidConfiguration;
  static thread_local std::mt19937 scramble;
  std::vector<std::pair<unsigned, unsigned>> threads;
  for (unsigned block = 0; block < config->gridDim.x; ++block) {
    for (unsigned thread = 0; thread < config->blockDim.x; ++thread) threads.emplace_back(block, thread);
  }
  std::shuffle(threads.begin(), threads.end(), scramble);
  blockDim = config->blockDim;
  for (const auto& [block, thread] : threads) {
    blockIdx = dim3(block);
    threadIdx = dim3(thread);
    kernel(Parameters(arguments)...);
  }
  return cudaSuccess;
}

inline cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t) {
  *memory = std::malloc(bytes);
  return *memory != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFreeAsync(void* memory, cudaStream_t) {
  std::memset(memory, 0, 1);  // touched, so that freeing twice or too early shows
  std::free(memory);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  if (bytes > 0) std::memmove(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  if (bytes > 0) std::memset(to, value, bytes);
  return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorInvalidConfiguration ? "invalid configuration" : "an emulated error";
}

#endif
