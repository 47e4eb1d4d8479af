// What every native library here exports, and how.
#ifndef TESTBED_ABI_H
#define TESTBED_ABI_H

#include <cstdint>

#if defined(_WIN32)
#define TESTBED_EXPORT extern "C" __declspec(dllexport)
#else
#define TESTBED_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace testbed {

// Raised whenever an exported signature, structure or code changes its meaning. Each library exports it as
// testbed_abi_version(); whoever loads one (testbed/core/libraries.py, the ONNX Runtime op) asks before it calls.
constexpr std::int32_t kAbiVersion = 1;

}  // namespace testbed

#endif
