// The ONNX Runtime custom op `testbed::FaultPort`, version 1: a fault port that sees live values.
//
//   inputs   0 x            float, float16, bfloat16, int8, uint8 or int32, (B, ...)
//            1 fault_site   int64  (B, K)   the port each fault is meant for
//            2 fault_index  int64  (B, K)   flat within the row of x
//            3 fault_and, 4 fault_or, 5 fault_xor   uint32 (B, K)   cut to the width of x
//   attribute  port         int
//   outputs  0 y            x with each fault of this port applied to its row, in the order of K
//            1 current      type of x, (B, K): the value each fault of this port found, 0 for faults of other ports
//
// y takes the place of x where ONNX Runtime allows it. A fault of this port whose index is out of range, or inputs whose
// shapes do not fit, fail the run with a message before anything is written.
#include <array>
#include <cstring>
#include <functional>
#include <mutex>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "abi.h"
#include "cuda_library.h"
#include "ort_api.h"
#include "ort_tensor.h"
#include "port.h"

namespace {

using ort::check;
using ort::guarded;
using ort::input;
using ort::Input;
using ort::output;
using ort::refuse;
using ort::Shape;
using ort::shape_of;
using ort::text;
using testbed::CudaLibrary;
using testbed::Faults;

constexpr const char* kDomain = "testbed";
constexpr const char* kName = "FaultPort";
constexpr std::array<const char*, 6> kInputs{"x", "fault_site", "fault_index", "fault_and", "fault_or", "fault_xor"};
constexpr std::array<ort::ElementType, 6> kTypes{ort::kFloat,    ort::kFloat16, ort::kBfloat16,
                                                 ort::kInt8,     ort::kUint8,   ort::kInt32};
constexpr std::size_t kSite = 1;
constexpr std::size_t kOutputs = 2;

std::int32_t width_of(ort::ElementType type) {
  switch (type) {
    case ort::kInt8:
    case ort::kUint8:
      return 1;
    case ort::kFloat16:
    case ort::kBfloat16:
      return 2;
    default:
      return 4;
  }
}

// ---- The faults of one run, checked

Faults read_faults(const ort::Api& api, const ort::KernelContext* context, const Shape& x, std::int64_t port) {
  if (x.empty()) refuse("x is a scalar; a fault port needs a batch axis");
  const Input site = input(api, context, kSite);
  if (site.shape.size() != 2 || site.shape[0] != x[0]) {
    refuse("fault_site has shape " + text(site.shape) + "; for x of shape " + text(x) + " it must be (" +
           std::to_string(x[0]) + ", K)");
  }
  std::array<const void*, kInputs.size()> data{};
  data[kSite] = site.data;
  for (std::size_t i = kSite + 1; i < kInputs.size(); ++i) {
    const Input other = input(api, context, i);
    if (other.shape != site.shape) {
      refuse(std::string(kInputs[i]) + " has shape " + text(other.shape) + ", fault_site " + text(site.shape));
    }
    data[i] = other.data;
  }
  Faults faults{};
  faults.rows = site.shape[0];
  faults.slots = site.shape[1];
  faults.elements = std::accumulate(x.begin() + 1, x.end(), std::int64_t{1}, std::multiplies<>());
  faults.port = port;
  faults.site = static_cast<const std::int64_t*>(data[kSite]);
  faults.index = static_cast<const std::int64_t*>(data[2]);
  faults.and_masks = static_cast<const std::uint32_t*>(data[3]);
  faults.or_masks = static_cast<const std::uint32_t*>(data[4]);
  faults.xor_masks = static_cast<const std::uint32_t*>(data[5]);
  return faults;
}

// How many of them are for this port. Refuses an index out of range.
std::int64_t count_active(const Faults& faults) {
  std::int64_t active = 0;
  for (std::int64_t entry = 0; entry < faults.rows * faults.slots; ++entry) {
    if (!testbed::is_active(faults, entry)) continue;
    ++active;
    if (!testbed::in_bounds(faults.index[entry], faults.elements)) {
      refuse("fault_index[" + std::to_string(entry / faults.slots) + ", " + std::to_string(entry % faults.slots) +
             "] is " + std::to_string(faults.index[entry]) + ", but a row of x has " +
             std::to_string(faults.elements) + " elements (port " + std::to_string(faults.port) +
             "); nothing was changed");
    }
  }
  return active;
}

// ---- The kernel

struct Kernel {
  ort::Api api;
  std::int64_t port;
  std::int32_t width;
  const CudaLibrary* cuda;  // null: x lies in host memory
};

template <typename Word>
void inject(const Faults& faults, void* y, void* current) {
  for (std::int64_t entry = 0; entry < faults.rows * faults.slots; ++entry) {
    testbed::inject_entry<Word>(faults, entry, static_cast<Word*>(y), static_cast<Word*>(current));
  }
}

void inject_on_cpu(const Kernel& kernel, const Faults& faults, const void* x, void* y, void* current) {
  const auto bytes = static_cast<std::size_t>(faults.rows * faults.elements) * static_cast<std::size_t>(kernel.width);
  if (y != x && bytes > 0) std::memcpy(y, x, bytes);
  if (kernel.width == 1) inject<std::uint8_t>(faults, y, current);
  if (kernel.width == 2) inject<std::uint16_t>(faults, y, current);
  if (kernel.width == 4) inject<std::uint32_t>(faults, y, current);
}

// x, y and current lie in device memory; the faults in host memory, where they were checked. A port without a fault of
// its own, which is most of them in most runs, launches no kernel.
void inject_on_cuda(const Kernel& kernel, const Faults& faults, std::int64_t active, ort::KernelContext* context,
                    const void* x, void* y, void* current) {
  void* stream = nullptr;
  check(kernel.api(ort::kKernelContextGetGpuComputeStream)(context, &stream));
  const auto succeed = [&](std::int32_t status) {
    if (status != 0) throw std::runtime_error(std::string("CUDA: ") + kernel.cuda->status_text(status));
  };
  if (y != x) succeed(kernel.cuda->copy(y, x, faults.rows * faults.elements * kernel.width, stream));
  if (active > 0) {
    succeed(kernel.cuda->inject_from_host(y, kernel.width, &faults, current, nullptr, stream));
  } else {
    succeed(kernel.cuda->clear(current, faults.rows * faults.slots * kernel.width, stream));
  }
}

void run_port(const Kernel& kernel, ort::KernelContext* context) {
  const Input x = input(kernel.api, context, 0);
  const Faults faults = read_faults(kernel.api, context, x.shape, kernel.port);
  const std::int64_t active = count_active(faults);
  void* y = output(kernel.api, context, 0, x.shape);
  void* current = output(kernel.api, context, 1, {faults.rows, faults.slots});
  if (kernel.cuda != nullptr) {
    inject_on_cuda(kernel, faults, active, context, x.data, y, current);
  } else {
    inject_on_cpu(kernel, faults, x.data, y, current);
  }
}

// ---- The op, once per element type and provider, as ONNX Runtime's overloads want it

struct FaultPort : ort::CustomOp {
  ort::ElementType type;
  const CudaLibrary* cuda;

  FaultPort(ort::ElementType element_type, const CudaLibrary* cuda_library) : type(element_type), cuda(cuda_library) {
    get_name = [](const CustomOp*) { return kName; };
    get_execution_provider = [](const CustomOp* op) { return self(op).cuda ? "CUDAExecutionProvider" : nullptr; };
    get_input_count = [](const CustomOp*) { return kInputs.size(); };
    get_input_type = [](const CustomOp* op, std::size_t i) {
      return i == 0 ? self(op).type : i <= 2 ? ort::kInt64 : ort::kUint32;
    };
    get_output_count = [](const CustomOp*) { return kOutputs; };
    get_output_type = [](const CustomOp* op, std::size_t) { return self(op).type; };
    get_input_characteristic = [](const CustomOp*, std::size_t) { return ort::kRequired; };
    get_output_characteristic = [](const CustomOp*, std::size_t) { return ort::kRequired; };
    // The faults stay on the host, where they are checked before anything is launched.
    get_input_memory_type = [](const CustomOp*, std::size_t i) { return i == 0 ? ort::kDeviceMemory : ort::kCpuInput; };
    get_start_version = [](const CustomOp*) { return 1; };
    get_end_version = [](const CustomOp*) { return 1; };
    create_kernel_v2 = create;
    destroy_kernel = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
    compute_v2 = [](void* kernel, ort::KernelContext* context) {
      const Kernel& mine = *static_cast<Kernel*>(kernel);
      return guarded(mine.api, [&] { run_port(mine, context); });
    };
    infer_output_shapes = infer;
    get_may_inplace = [](int** inputs, int** outputs) {
      *inputs = new int[1]{0};
      *outputs = new int[1]{0};
      return std::size_t{1};
    };
    release_may_inplace = [](int* inputs, int* outputs) {
      delete[] inputs;
      delete[] outputs;
    };
  }

  static const FaultPort& self(const CustomOp* op) { return *static_cast<const FaultPort*>(op); }

  static ort::Status* create(const CustomOp* op, const ort::Api::AnyFunction* table, const ort::KernelInfo* info,
                             void** kernel) {
    const ort::Api api(table);
    return guarded(api, [&] {
      std::int64_t port = 0;
      check(api(ort::kKernelInfoGetAttributeInt64)(info, "port", &port));
      *kernel = new Kernel{api, port, width_of(self(op).type), self(op).cuda};
    });
  }

  // y is like x. Without its shape ONNX Runtime would not fuse what follows a port.
  static ort::Status* infer(const CustomOp*, ort::ShapeInferContext* context);
};

ort::Api shape_api;  // shape inference gets no table of its own

// ONNX Runtime writes an unknown size down as -1 and an unknown rank as a scalar: such shapes are not passed on.
bool is_known(const ort::Api& api, const ort::TensorInfo* info) {
  const Shape shape = shape_of(api, info);
  std::vector<const char*> names(shape.size());
  check(api(ort::kGetSymbolicDimensions)(info, names.data(), names.size()));
  bool known = !shape.empty();
  for (std::size_t i = 0; i < shape.size(); ++i) known = known && (shape[i] >= 0 || names[i][0] != '\0');
  return known;
}

ort::Status* FaultPort::infer(const CustomOp*, ort::ShapeInferContext* context) {
  return guarded(shape_api, [&] {
    ort::TensorInfo* x = nullptr;  // the context's own
    check(shape_api(ort::kShapeInferContextGetInput)(context, 0, &x));
    if (is_known(shape_api, x)) check(shape_api(ort::kShapeInferContextSetOutput)(context, 0, x));
  });
}

const CudaLibrary* cuda_library() {
  static const CudaLibrary* const library = testbed::load_cuda_library(reinterpret_cast<const void*>(&cuda_library));
  return library;
}

// One domain for all sessions; it lives as long as the library.
ort::CustomOpDomain* domain(const ort::Api& api) {
  static std::mutex mutex;
  static ort::CustomOpDomain* made = nullptr;
  static std::vector<FaultPort> ops;
  const std::lock_guard<std::mutex> lock(mutex);
  if (made != nullptr) return made;

  shape_api = api;
  ops.clear();
  for (const ort::ElementType type : kTypes) ops.emplace_back(type, nullptr);
  if (cuda_library() != nullptr) {
    for (const ort::ElementType type : kTypes) ops.emplace_back(type, cuda_library());
  }
  ort::CustomOpDomain* fresh = nullptr;
  check(api(ort::kCreateCustomOpDomain)(kDomain, &fresh));
  for (const FaultPort& op : ops) check(api(ort::kCustomOpDomainAdd)(fresh, &op));
  made = fresh;
  return made;
}

}  // namespace

TESTBED_EXPORT std::int32_t testbed_abi_version() { return testbed::kAbiVersion; }

// 1 when the op also runs on ONNX Runtime's CUDA provider, without a way over the host.
TESTBED_EXPORT std::int32_t testbed_op_has_cuda() { return cuda_library() != nullptr; }

// ONNX Runtime calls this by name for each session's options.
TESTBED_EXPORT ort::Status* TESTBED_ORT_CALL RegisterCustomOps(ort::SessionOptions* options, const ort::ApiBase* base) {
  const ort::Api api(base->get_api(ort::kApiVersion));
  if (!api) {
    const ort::Api oldest(base->get_api(1));
    return oldest(ort::kCreateStatus)(ort::kFail, "the testbed's op needs ONNX Runtime 1.18 or newer");
  }
  return guarded(api, [&] { check(api(ort::kAddCustomOpDomain)(options, domain(api))); });
}
