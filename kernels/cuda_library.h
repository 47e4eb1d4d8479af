// The CUDA kernels as seen by the ONNX Runtime op: a library beside the op's own, built or not, found when the op is
// registered. So the op library itself needs no CUDA to be built or loaded.
#ifndef TESTBED_CUDA_LIBRARY_H
#define TESTBED_CUDA_LIBRARY_H

#include "cuda.h"

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

#include <string>

namespace testbed {

struct CudaLibrary {
  decltype(&testbed_cuda_status_text) status_text = nullptr;
  decltype(&testbed_cuda_inject_from_host) inject_from_host = nullptr;
  decltype(&testbed_cuda_copy) copy = nullptr;
  decltype(&testbed_cuda_clear) clear = nullptr;
};

#if defined(_WIN32)

inline const CudaLibrary* load_cuda_library(const void*) { return nullptr; }  // not built there

#else

template <typename Function>
bool find(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  return function != nullptr;
}

// Null when there is no such library of this ABI beside the one that `own_symbol` lies in. It stays loaded.
inline const CudaLibrary* load_cuda_library(const void* own_symbol) {
  Dl_info own{};
  if (dladdr(own_symbol, &own) == 0 || own.dli_fname == nullptr) return nullptr;
  const std::string file = own.dli_fname;
  void* library = dlopen((file.substr(0, file.rfind('/') + 1) + "testbed_cuda.so").c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return nullptr;

  static CudaLibrary found;
  decltype(&testbed_abi_version) abi_version = nullptr;
  const bool usable = find(library, "testbed_abi_version", abi_version) && abi_version() == kAbiVersion &&
                      find(library, "testbed_cuda_status_text", found.status_text) &&
                      find(library, "testbed_cuda_inject_from_host", found.inject_from_host) &&
                      find(library, "testbed_cuda_copy", found.copy) &&
                      find(library, "testbed_cuda_clear", found.clear);
  return usable ? &found : nullptr;
}

#endif

}  // namespace testbed

#endif
