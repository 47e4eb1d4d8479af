// The fault port as a TensorRT plugin (IPluginV3, TensorRT 10 and 11): name "FaultPort", version "1", namespace "testbed".
//
//   inputs   0 x            float, half, bfloat16, int8 or int32, (B, ...), linear
//            1 fault_site, 2 fault_index                int64 (B, K)
//            3 fault_and, 4 fault_or, 5 fault_xor       int32 (B, K), the masks' bit patterns: TensorRT has no uint32
//   field    port           int32 or int64
//   outputs  0 y, 1 current as of the ONNX Runtime op (onnxruntime_op.cpp)
//            2 refused      int32 (1): how many faults of this port had an index out of range; those wrote nothing
//
// The faults stay in device memory, so an index is checked by the kernel, and `refused` is how it tells: whoever runs the
// engine must read it. The library needs no TensorRT to be linked or loaded; give it to IPluginRegistry::loadLibrary (in
// Python: tensorrt.get_plugin_registry().load_library(path)) or `trtexec --dynamicPlugins`.
//
// Not verified: the real headers, TensorRT itself and a GPU were not at hand. What was: the interfaces as declared in
// NVIDIA/TensorRT's public include folder, transcribed, and every method below run on the host with emulated kernels.
#include <NvInferRuntime.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iterator>
#include <new>
#include <numeric>

#include "abi.h"
#include "cuda.h"

namespace {

using nvinfer1::DataType;
using nvinfer1::PluginTensorDesc;

constexpr const char* kName = "FaultPort";
constexpr const char* kVersion = "1";
constexpr const char* kNamespace = "testbed";
constexpr const char* kPortField = "port";

enum Tensor : std::int32_t { kX, kSite, kIndex, kAnd, kOr, kXor, kY, kCurrent, kRefused };
constexpr std::int32_t kInputs = 6;
constexpr std::int32_t kOutputs = 3;
constexpr std::int32_t kSuccess = 0;
constexpr std::int32_t kFailure = 1;

// 0 for types that a port cannot inject into.
std::int32_t width_of(DataType type) {
  switch (type) {
    case DataType::kINT8:
      return 1;
    case DataType::kHALF:
    case DataType::kBF16:
      return 2;
    case DataType::kFLOAT:
    case DataType::kINT32:
      return 4;
    default:
      return 0;
  }
}

// The type that goes with x's in place `tensor`.
DataType type_of(std::int32_t tensor, DataType x) {
  switch (tensor) {
    case kX:
    case kY:
    case kCurrent:
      return x;
    case kSite:
    case kIndex:
      return DataType::kINT64;
    default:
      return DataType::kINT32;
  }
}

std::int64_t product(const std::int64_t* begin, const std::int64_t* end) {
  return std::accumulate(begin, end, std::int64_t{1}, std::multiplies<>());
}

class FaultPortPlugin final : public nvinfer1::IPluginV3,
                              public nvinfer1::IPluginV3OneCore,
                              public nvinfer1::IPluginV3OneBuild,
                              public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit FaultPortPlugin(std::int64_t port) : port_(port) {}

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
    switch (type) {
      case nvinfer1::PluginCapabilityType::kCORE:
        return static_cast<nvinfer1::IPluginV3OneCore*>(this);
      case nvinfer1::PluginCapabilityType::kBUILD:
        return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
      case nvinfer1::PluginCapabilityType::kRUNTIME:
        return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }

  nvinfer1::IPluginV3* clone() noexcept override { return new (std::nothrow) FaultPortPlugin(port_); }

  const char* getPluginName() const noexcept override { return kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

  // ---- Building

  std::int32_t getNbOutputs() const noexcept override { return kOutputs; }

  std::int32_t getOutputDataTypes(DataType* outputs, std::int32_t output_count, const DataType* inputs,
                                  std::int32_t input_count) const noexcept override {
    if (input_count != kInputs || output_count != kOutputs || width_of(inputs[kX]) == 0) return kFailure;
    for (std::int32_t i = 0; i < kOutputs; ++i) outputs[i] = type_of(kInputs + i, inputs[kX]);
    return kSuccess;
  }

  std::int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t input_count, const nvinfer1::DimsExprs*,
                               std::int32_t, nvinfer1::DimsExprs* outputs, std::int32_t output_count,
                               nvinfer1::IExprBuilder& expressions) noexcept override {
    if (input_count != kInputs || output_count != kOutputs || inputs[kX].nbDims < 1) return kFailure;
    for (std::int32_t i = kSite; i < kInputs; ++i) {
      if (inputs[i].nbDims != 2) return kFailure;
    }
    outputs[kY - kInputs] = inputs[kX];
    outputs[kCurrent - kInputs] = inputs[kSite];
    outputs[kRefused - kInputs].nbDims = 1;
    outputs[kRefused - kInputs].d[0] = expressions.constant(1);
    return kSuccess;
  }

  bool supportsFormatCombination(std::int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                 std::int32_t input_count, std::int32_t output_count) noexcept override {
    if (input_count != kInputs || output_count != kOutputs) return false;
    const PluginTensorDesc& tensor = tensors[position].desc;
    const DataType x = tensors[kX].desc.type;
    return tensor.format == nvinfer1::TensorFormat::kLINEAR && width_of(x) != 0 && tensor.type == type_of(position, x);
  }

  std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc*, std::int32_t,
                               const nvinfer1::DynamicPluginTensorDesc*, std::int32_t) noexcept override {
    return kSuccess;
  }

  // ---- Running

  std::int32_t onShapeChange(const PluginTensorDesc* inputs, std::int32_t input_count, const PluginTensorDesc*,
                             std::int32_t) noexcept override {
    if (input_count != kInputs || inputs[kX].dims.nbDims < 1) return kFailure;
    const nvinfer1::Dims& site = inputs[kSite].dims;
    if (site.nbDims != 2 || site.d[0] != inputs[kX].dims.d[0]) return kFailure;
    for (std::int32_t i = kIndex; i < kInputs; ++i) {
      const nvinfer1::Dims& other = inputs[i].dims;
      if (other.nbDims != 2 || other.d[0] != site.d[0] || other.d[1] != site.d[1]) return kFailure;
    }
    return kSuccess;
  }

  std::int32_t enqueue(const PluginTensorDesc* inputs, const PluginTensorDesc*, const void* const* in, void* const* out,
                       void*, cudaStream_t stream) noexcept override {
    const nvinfer1::Dims& x = inputs[kX].dims;
    const std::int32_t width = width_of(inputs[kX].type);
    testbed::Faults faults{};
    faults.rows = x.d[0];
    faults.slots = inputs[kSite].dims.d[1];
    faults.elements = product(x.d + 1, x.d + x.nbDims);
    faults.port = port_;
    faults.site = static_cast<const std::int64_t*>(in[kSite]);
    faults.index = static_cast<const std::int64_t*>(in[kIndex]);
    faults.and_masks = static_cast<const std::uint32_t*>(in[kAnd]);
    faults.or_masks = static_cast<const std::uint32_t*>(in[kOr]);
    faults.xor_masks = static_cast<const std::uint32_t*>(in[kXor]);

    void* y = out[kY - kInputs];
    auto* refused = static_cast<std::int32_t*>(out[kRefused - kInputs]);
    std::int32_t status = testbed_cuda_clear(refused, sizeof *refused, stream);
    if (status == kSuccess && y != in[kX]) {
      status = testbed_cuda_copy(y, in[kX], faults.rows * faults.elements * width, stream);
    }
    if (status == kSuccess) status = testbed_cuda_inject(y, width, &faults, out[kCurrent - kInputs], refused, stream);
    return status;
  }

  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }

  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override {
    field_ = nvinfer1::PluginField(kPortField, &port_, nvinfer1::PluginFieldType::kINT64, 1);
    fields_.nbFields = 1;
    fields_.fields = &field_;
    return &fields_;
  }

 private:
  std::int64_t port_;
  nvinfer1::PluginField field_;
  nvinfer1::PluginFieldCollection fields_{};
};

class FaultPortCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  // Null without exactly one port number.
  nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection* given,
                                    nvinfer1::TensorRTPhase) noexcept override {
    if (given == nullptr) return nullptr;
    for (std::int32_t i = 0; i < given->nbFields; ++i) {
      const nvinfer1::PluginField& field = given->fields[i];
      if (std::strcmp(field.name, kPortField) != 0 || field.data == nullptr || field.length != 1) continue;
      if (field.type == nvinfer1::PluginFieldType::kINT64) {
        return new (std::nothrow) FaultPortPlugin(*static_cast<const std::int64_t*>(field.data));
      }
      if (field.type == nvinfer1::PluginFieldType::kINT32) {
        return new (std::nothrow) FaultPortPlugin(*static_cast<const std::int32_t*>(field.data));
      }
    }
    return nullptr;
  }

  // As int32: TensorRT's ONNX parser reads an integer attribute as what is declared here.
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override {
    field_ = nvinfer1::PluginField(kPortField, nullptr, nvinfer1::PluginFieldType::kINT32, 1);
    fields_.nbFields = 1;
    fields_.fields = &field_;
    return &fields_;
  }

  const char* getPluginName() const noexcept override { return kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  nvinfer1::PluginField field_;
  nvinfer1::PluginFieldCollection fields_{};
};

}  // namespace

// TensorRT looks both up by name when it loads the library.
TESTBED_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
  static FaultPortCreator creator;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  count = 1;
  return creators;
}

TESTBED_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder*) {}  // the plugin says nothing
