// The C ABI of the CUDA kernels (cuda.cu). Pointers named `device_...` are device memory; `stream` is a cudaStream_t, null
// for the default stream. The current context is used, which must be the device's primary one. Nothing here waits for
// the device: errors that only running shows come with a later call on the stream.
#ifndef TESTBED_CUDA_H
#define TESTBED_CUDA_H

#include "abi.h"
#include "port.h"

namespace testbed {

// Statuses: 0 is success, positive ones are cudaError_t.
constexpr std::int32_t kCudaBadWidth = -1;     // values are 1, 2 or 4 bytes wide
constexpr std::int32_t kCudaBadShape = -2;     // a negative size, or more entries than a launch can hold
constexpr std::int32_t kCudaOutOfMemory = -3;  // host memory

}  // namespace testbed

TESTBED_EXPORT std::int32_t testbed_abi_version();

// What a status means, as static text.
TESTBED_EXPORT const char* testbed_cuda_status_text(std::int32_t status);

// Applies faults to device_values, (rows, elements) values of `width` bytes, in place; the arrays of `faults` lie in device
// memory too. device_current: (rows, slots) values or null. device_refused: the count of entries whose index was out of
// range is added to it; such entries write nothing, the others are applied. Null: not counted.
TESTBED_EXPORT std::int32_t testbed_cuda_inject(void* device_values, std::int32_t width, const testbed::Faults* faults,
                                                void* device_current, std::int32_t* device_refused, void* stream);

// The same with the arrays of `faults` in host memory; they may be freed at once.
TESTBED_EXPORT std::int32_t testbed_cuda_inject_from_host(void* device_values, std::int32_t width,
                                                          const testbed::Faults* faults, void* device_current,
                                                          std::int32_t* device_refused, void* stream);

TESTBED_EXPORT std::int32_t testbed_cuda_copy(void* device_to, const void* device_from, std::int64_t bytes,
                                              void* stream);
TESTBED_EXPORT std::int32_t testbed_cuda_clear(void* device_bytes, std::int64_t bytes, void* stream);

#endif
