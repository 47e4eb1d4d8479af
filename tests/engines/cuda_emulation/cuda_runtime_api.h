// The name under which TensorRT's headers ask for the CUDA runtime.
#ifndef TESTBED_CUDA_EMULATION_API_H
#define TESTBED_CUDA_EMULATION_API_H

#include "cuda_runtime.h"

using cudaEvent_t = struct Event*;

#endif
