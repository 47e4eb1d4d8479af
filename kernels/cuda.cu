// CUDA kernels of the fault port, behind the C ABI of cuda.h. One thread per entry of the fault list (see port.h).
#include "cuda.h"

#include <cuda_runtime.h>

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>

namespace {

using testbed::Faults;

constexpr std::int64_t kThreads = 128;
constexpr std::int64_t kMaxEntries = kThreads * INT32_MAX;

template <typename Word>
__global__ void inject_kernel(Faults faults, Word* values, Word* current, std::int32_t* refused) {
  const std::int64_t entry = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (entry >= faults.rows * faults.slots) return;
  const bool in_range = testbed::inject_entry<Word>(faults, entry, values, current);
  if (!in_range && refused != nullptr) atomicAdd(refused, 1);
}

template <typename Word>
cudaError_t launch(const Faults& faults, void* values, void* current, std::int32_t* refused, cudaStream_t stream) {
  const std::int64_t entries = faults.rows * faults.slots;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>((entries + kThreads - 1) / kThreads));
  config.blockDim = dim3(static_cast<unsigned>(kThreads));
  config.stream = stream;
  return cudaLaunchKernelEx(&config, inject_kernel<Word>, faults, static_cast<Word*>(values),
                            static_cast<Word*>(current), refused);
}

std::int32_t check(std::int32_t width, const Faults& faults) {
  if (width != 1 && width != 2 && width != 4) return testbed::kCudaBadWidth;
  if (faults.rows < 0 || faults.slots < 0 || faults.elements < 0) return testbed::kCudaBadShape;
  if (faults.slots > 0 && faults.rows > kMaxEntries / faults.slots) return testbed::kCudaBadShape;
  return cudaSuccess;
}

// The arrays of `faults` in one block: the wide ones first, so that each is aligned.
std::size_t packed_bytes(std::size_t entries) {
  return entries * (2 * sizeof(std::int64_t) + 3 * sizeof(std::uint32_t));
}

// `faults` with its arrays at `block`; with `copy`, they are copied there.
Faults packed(const Faults& faults, std::size_t entries, unsigned char* block, bool copy) {
  Faults result = faults;
  const auto place = [&](auto*& array) {
    const std::size_t bytes = entries * sizeof(*array);
    if (copy && array != nullptr) std::memcpy(block, array, bytes);
    if (array != nullptr) array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(block);
    block += bytes;
  };
  place(result.site);
  place(result.index);
  place(result.and_masks);
  place(result.or_masks);
  place(result.xor_masks);
  return result;
}

}  // namespace

TESTBED_EXPORT std::int32_t testbed_abi_version() { return testbed::kAbiVersion; }

TESTBED_EXPORT const char* testbed_cuda_status_text(std::int32_t status) {
  switch (status) {
    case testbed::kCudaBadWidth:
      return "values must be 1, 2 or 4 bytes wide";
    case testbed::kCudaBadShape:
      return "a size is negative, or there are too many faults for one launch";
    case testbed::kCudaOutOfMemory:
      return "out of host memory";
    default:
      return cudaGetErrorString(static_cast<cudaError_t>(status));
  }
}

TESTBED_EXPORT std::int32_t testbed_cuda_inject(void* device_values, std::int32_t width, const Faults* faults,
                                                void* device_current, std::int32_t* device_refused, void* stream) {
  const std::int32_t status = check(width, *faults);
  if (status != cudaSuccess || faults->rows * faults->slots == 0) return status;
  const auto on_stream = static_cast<cudaStream_t>(stream);
  switch (width) {
    case 1:
      return launch<std::uint8_t>(*faults, device_values, device_current, device_refused, on_stream);
    case 2:
      return launch<std::uint16_t>(*faults, device_values, device_current, device_refused, on_stream);
    default:
      return launch<std::uint32_t>(*faults, device_values, device_current, device_refused, on_stream);
  }
}

TESTBED_EXPORT std::int32_t testbed_cuda_inject_from_host(void* device_values, std::int32_t width, const Faults* faults,
                                                          void* device_current, std::int32_t* device_refused,
                                                          void* stream) {
  std::int32_t status = check(width, *faults);
  if (status != cudaSuccess || faults->rows * faults->slots == 0) return status;
  const auto on_stream = static_cast<cudaStream_t>(stream);
  const auto entries = static_cast<std::size_t>(faults->rows * faults->slots);
  const std::size_t bytes = packed_bytes(entries);

  const std::unique_ptr<unsigned char[]> host(new (std::nothrow) unsigned char[bytes]);
  if (host == nullptr) return testbed::kCudaOutOfMemory;
  packed(*faults, entries, host.get(), true);

  void* device = nullptr;
  status = cudaMallocAsync(&device, bytes, on_stream);
  if (status != cudaSuccess) return status;
  // From pageable memory this returns when the bytes have been taken over, so `host` may go.
  status = cudaMemcpyAsync(device, host.get(), bytes, cudaMemcpyHostToDevice, on_stream);
  if (status == cudaSuccess) {
    const Faults on_device = packed(*faults, entries, static_cast<unsigned char*>(device), false);
    status = testbed_cuda_inject(device_values, width, &on_device, device_current, device_refused, stream);
  }
  const std::int32_t freed = cudaFreeAsync(device, on_stream);
  return status != cudaSuccess ? status : freed;
}

TESTBED_EXPORT std::int32_t testbed_cuda_copy(void* device_to, const void* device_from, std::int64_t bytes,
                                              void* stream) {
  if (bytes < 0) return testbed::kCudaBadShape;
  return cudaMemcpyAsync(device_to, device_from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToDevice,
                         static_cast<cudaStream_t>(stream));
}

TESTBED_EXPORT std::int32_t testbed_cuda_clear(void* device_bytes, std::int64_t bytes, void* stream) {
  if (bytes < 0) return testbed::kCudaBadShape;
  return cudaMemsetAsync(device_bytes, 0, static_cast<std::size_t>(bytes), static_cast<cudaStream_t>(stream));
}
