// Errors and tensors over ort_api.h, for the body of a custom op.
#ifndef TESTBED_ORT_TENSOR_H
#define TESTBED_ORT_TENSOR_H

#include <cstddef>
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "ort_api.h"

namespace ort {

// ONNX Runtime's errors are exceptions inside, statuses outside.

struct Failed {
  Status* status;
};

inline void check(Status* status) {
  if (status != nullptr) throw Failed{status};
}

[[noreturn]] inline void refuse(const std::string& why) { throw std::invalid_argument(why); }

template <typename Work>
Status* guarded(const Api& api, Work work) noexcept {
  try {
    work();
    return nullptr;
  } catch (const Failed& failed) {
    return failed.status;
  } catch (const std::invalid_argument& error) {
    return api(kCreateStatus)(kInvalidArgument, error.what());
  } catch (const std::exception& error) {
    return api(kCreateStatus)(kFail, error.what());
  }
}

using Shape = std::vector<std::int64_t>;

inline std::string text(const Shape& shape) {
  std::string result = "(";
  for (const std::int64_t size : shape) result += (result.size() > 1 ? ", " : "") + std::to_string(size);
  return result + ")";
}

inline Shape shape_of(const Api& api, const TensorInfo* info) {
  std::size_t rank = 0;
  check(api(kGetDimensionsCount)(info, &rank));
  Shape shape(rank);
  check(api(kGetDimensions)(info, shape.data(), rank));
  return shape;
}

struct Input {
  Shape shape;
  const void* data;
};

inline Input input(const Api& api, const KernelContext* context, std::size_t number) {
  const Value* value = nullptr;
  check(api(kKernelContextGetInput)(context, number, &value));
  TensorInfo* info = nullptr;
  check(api(kGetTensorTypeAndShape)(value, &info));
  Input result{};
  try {
    result.shape = shape_of(api, info);
  } catch (...) {
    api(kReleaseTensorInfo)(info);
    throw;
  }
  api(kReleaseTensorInfo)(info);
  void* data = nullptr;
  check(api(kGetTensorMutableData)(const_cast<Value*>(value), &data));  // there is no read-only variant
  result.data = data;
  return result;
}

inline void* output(const Api& api, KernelContext* context, std::size_t number, const Shape& shape) {
  Value* value = nullptr;
  check(api(kKernelContextGetOutput)(context, number, shape.data(), shape.size(), &value));
  void* data = nullptr;
  check(api(kGetTensorMutableData)(value, &data));
  return data;
}

}  // namespace ort

#endif
