// As much of ONNX Runtime's C ABI, at API version 18, as a custom op needs: its own headers come with no Python package.
// The API is a table of functions whose positions never change; the op is a record of callbacks that only grows.
#ifndef TESTBED_ORT_API_H
#define TESTBED_ORT_API_H

#include <cstddef>
#include <cstdint>

#if defined(_WIN32)
#define TESTBED_ORT_CALL __stdcall
#else
#define TESTBED_ORT_CALL
#endif

namespace ort {

constexpr std::uint32_t kApiVersion = 18;

struct Status;  // null is success
struct SessionOptions;
struct CustomOpDomain;
struct KernelInfo;
struct KernelContext;
struct ShapeInferContext;
struct TensorInfo;
struct Value;
struct CustomOp;

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum ElementType : int {
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kInt32 = 6,
  kInt64 = 7,
  kFloat16 = 10,
  kUint32 = 12,
  kBfloat16 = 16,
};
enum MemoryType : int { kCpuInput = -2, kDeviceMemory = 0 };
enum Characteristic : int { kRequired = 0 };

// A function of the table, by position.
template <typename Function>
struct Slot {
  std::size_t position;
};

template <typename... Arguments>
using StatusFunction = Status*TESTBED_ORT_CALL(Arguments...);

constexpr Slot<StatusFunction<ErrorCode, const char*>> kCreateStatus{0};
constexpr Slot<StatusFunction<const char*, CustomOpDomain**>> kCreateCustomOpDomain{26};
constexpr Slot<StatusFunction<CustomOpDomain*, const CustomOp*>> kCustomOpDomainAdd{27};
constexpr Slot<StatusFunction<SessionOptions*, CustomOpDomain*>> kAddCustomOpDomain{28};
constexpr Slot<StatusFunction<Value*, void**>> kGetTensorMutableData{51};
constexpr Slot<StatusFunction<const TensorInfo*, std::size_t*>> kGetDimensionsCount{61};
constexpr Slot<StatusFunction<const TensorInfo*, std::int64_t*, std::size_t>> kGetDimensions{62};
constexpr Slot<StatusFunction<const TensorInfo*, const char**, std::size_t>> kGetSymbolicDimensions{63};
constexpr Slot<StatusFunction<const Value*, TensorInfo**>> kGetTensorTypeAndShape{65};
constexpr Slot<StatusFunction<const KernelInfo*, const char*, std::int64_t*>> kKernelInfoGetAttributeInt64{86};
constexpr Slot<StatusFunction<const KernelContext*, std::size_t, const Value**>> kKernelContextGetInput{90};
constexpr Slot<StatusFunction<KernelContext*, std::size_t, const std::int64_t*, std::size_t, Value**>>
    kKernelContextGetOutput{91};
constexpr Slot<void TESTBED_ORT_CALL(TensorInfo*)> kReleaseTensorInfo{99};
constexpr Slot<StatusFunction<const KernelContext*, void**>> kKernelContextGetGpuComputeStream{193};
constexpr Slot<StatusFunction<const ShapeInferContext*, std::size_t, TensorInfo**>> kShapeInferContextGetInput{268};
constexpr Slot<StatusFunction<const ShapeInferContext*, std::size_t, const TensorInfo*>>
    kShapeInferContextSetOutput{270};

// The table, called as api(slot)(arguments).
class Api {
 public:
  using AnyFunction = void (*)();
  Api() = default;
  explicit Api(const AnyFunction* table) : table_(table) {}
  explicit operator bool() const { return table_ != nullptr; }
  template <typename Function>
  Function* operator()(Slot<Function> slot) const {
    return reinterpret_cast<Function*>(table_[slot.position]);
  }

 private:
  const AnyFunction* table_ = nullptr;
};

struct ApiBase {
  const Api::AnyFunction*(TESTBED_ORT_CALL* get_api)(std::uint32_t version);
  const char*(TESTBED_ORT_CALL* get_version_string)();
};

// The record of callbacks; null where ONNX Runtime has a default of its own.
struct CustomOp {
  std::uint32_t version = kApiVersion;
  void*(TESTBED_ORT_CALL* create_kernel)(const CustomOp*, const Api::AnyFunction*, const KernelInfo*) = nullptr;
  const char*(TESTBED_ORT_CALL* get_name)(const CustomOp*) = nullptr;
  const char*(TESTBED_ORT_CALL* get_execution_provider)(const CustomOp*) = nullptr;
  ElementType(TESTBED_ORT_CALL* get_input_type)(const CustomOp*, std::size_t) = nullptr;
  std::size_t(TESTBED_ORT_CALL* get_input_count)(const CustomOp*) = nullptr;
  ElementType(TESTBED_ORT_CALL* get_output_type)(const CustomOp*, std::size_t) = nullptr;
  std::size_t(TESTBED_ORT_CALL* get_output_count)(const CustomOp*) = nullptr;
  void(TESTBED_ORT_CALL* compute)(void*, KernelContext*) = nullptr;
  void(TESTBED_ORT_CALL* destroy_kernel)(void*) = nullptr;
  Characteristic(TESTBED_ORT_CALL* get_input_characteristic)(const CustomOp*, std::size_t) = nullptr;
  Characteristic(TESTBED_ORT_CALL* get_output_characteristic)(const CustomOp*, std::size_t) = nullptr;
  MemoryType(TESTBED_ORT_CALL* get_input_memory_type)(const CustomOp*, std::size_t) = nullptr;
  int(TESTBED_ORT_CALL* get_variadic_input_min_arity)(const CustomOp*) = nullptr;
  int(TESTBED_ORT_CALL* get_variadic_input_homogeneity)(const CustomOp*) = nullptr;
  int(TESTBED_ORT_CALL* get_variadic_output_min_arity)(const CustomOp*) = nullptr;
  int(TESTBED_ORT_CALL* get_variadic_output_homogeneity)(const CustomOp*) = nullptr;
  Status*(TESTBED_ORT_CALL* create_kernel_v2)(const CustomOp*, const Api::AnyFunction*, const KernelInfo*,
                                              void**) = nullptr;
  Status*(TESTBED_ORT_CALL* compute_v2)(void*, KernelContext*) = nullptr;
  Status*(TESTBED_ORT_CALL* infer_output_shapes)(const CustomOp*, ShapeInferContext*) = nullptr;
  int(TESTBED_ORT_CALL* get_start_version)(const CustomOp*) = nullptr;
  int(TESTBED_ORT_CALL* get_end_version)(const CustomOp*) = nullptr;
  std::size_t(TESTBED_ORT_CALL* get_may_inplace)(int** inputs, int** outputs) = nullptr;
  void(TESTBED_ORT_CALL* release_may_inplace)(int* inputs, int* outputs) = nullptr;
  std::size_t(TESTBED_ORT_CALL* get_alias_map)(int** inputs, int** outputs) = nullptr;
  void(TESTBED_ORT_CALL* release_alias_map)(int* inputs, int* outputs) = nullptr;
};

}  // namespace ort

#endif
