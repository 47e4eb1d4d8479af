// Does with the TensorRT plugin what TensorRT does, in its order: create, ask while building, serialise, create again,
// attach, run. With the emulated kernels it needs TensorRT's headers, and neither TensorRT nor a GPU.
#include "tensorrt_plugin.cpp"

#include <vector>

namespace {

using namespace nvinfer1;

class ExpressionBuilder final : public IExprBuilder {
 public:
  ExpressionBuilder() { mImpl = &implementation_; }
  std::vector<std::int64_t> constants() const { return implementation_.constants; }

 private:
  struct Implementation final : apiv::VExprBuilder {
    std::vector<std::int64_t> constants;
    const IDimensionExpr* constant(std::int64_t value) override {
      constants.push_back(value);
      return nullptr;
    }
    const IDimensionExpr* operation(DimensionOperation, const IDimensionExpr&, const IDimensionExpr&) override {
      return nullptr;
    }
    const IDimensionExpr* declareSizeTensor(std::int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
      return nullptr;
    }
  };
  Implementation implementation_;
};

constexpr std::int32_t kTensors = kInputs + kOutputs;

PluginTensorDesc described(DataType type, std::vector<std::int64_t> sizes) {
  PluginTensorDesc desc{};
  desc.dims.nbDims = static_cast<std::int32_t>(sizes.size());
  std::copy(sizes.begin(), sizes.end(), desc.dims.d);
  desc.type = type;
  desc.format = TensorFormat::kLINEAR;
  return desc;
}

bool builds(IPluginV3OneBuild& build, const std::vector<PluginTensorDesc>& tensors) {
  std::vector<DynamicPluginTensorDesc> dynamic(kTensors);
  std::vector<DimsExprs> shapes(kTensors);
  for (std::int32_t i = 0; i < kTensors; ++i) {
    dynamic[i].desc = tensors[i];
    shapes[i].nbDims = tensors[i].dims.nbDims;
  }
  for (std::int32_t i = 0; i < kTensors; ++i) {
    if (!build.supportsFormatCombination(i, dynamic.data(), kInputs, kOutputs)) return false;
    for (const DataType wrong : {DataType::kBOOL, DataType::kUINT8, DataType::kFP8}) {
      std::vector<DynamicPluginTensorDesc> other = dynamic;
      other[i].desc.type = wrong;
      if (build.supportsFormatCombination(i, other.data(), kInputs, kOutputs)) return false;
    }
    std::vector<DynamicPluginTensorDesc> other = dynamic;
    other[i].desc.format = TensorFormat::kCHW32;
    if (build.supportsFormatCombination(i, other.data(), kInputs, kOutputs)) return false;
  }
  std::vector<DataType> types;
  for (const PluginTensorDesc& tensor : tensors) types.push_back(tensor.type);
  std::vector<DataType> outputs(kOutputs);
  if (build.getNbOutputs() != kOutputs) return false;
  if (build.getOutputDataTypes(outputs.data(), kOutputs, types.data(), kInputs) != 0) return false;
  if (!std::equal(outputs.begin(), outputs.end(), types.begin() + kInputs)) return false;
  ExpressionBuilder expressions;
  DimsExprs inferred[kOutputs];
  if (build.getOutputShapes(shapes.data(), kInputs, nullptr, 0, inferred, kOutputs, expressions) != 0) return false;
  for (std::int32_t i = 0; i < kOutputs; ++i) {
    if (inferred[i].nbDims != shapes[kInputs + i].nbDims) return false;
  }
  return expressions.constants() == std::vector<std::int64_t>{1} &&
         build.configurePlugin(dynamic.data(), kInputs, dynamic.data() + kInputs, kOutputs) == 0;
}

}  // namespace

// 0, or the number of the step that failed. mask_slots: the slots that the mask inputs are said to have.
TESTBED_EXPORT std::int32_t drive(std::int32_t type, std::int32_t rank, const std::int64_t* x, std::int64_t slots,
                                  std::int64_t mask_slots, std::int32_t port, const void* const* in, void* const* out) {
  const auto element = static_cast<DataType>(type);
  std::vector<PluginTensorDesc> tensors;
  for (std::int32_t i = 0; i < kTensors; ++i) {
    const bool like_x = i == kX || i == kY;
    std::vector<std::int64_t> sizes{x[0], i < kAnd || i >= kInputs ? slots : mask_slots};
    if (like_x) sizes.assign(x, x + rank);
    if (i == kRefused) sizes = {1};
    tensors.push_back(described(type_of(i, element), sizes));
  }

  std::int32_t count = 0;
  IPluginCreatorInterface* const* creators = getCreators(count);
  if (count != 1 || std::strcmp(creators[0]->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") != 0) return 1;
  auto& creator = *static_cast<IPluginCreatorV3One*>(creators[0]);

  const PluginFieldCollection none{};
  if (creator.createPlugin("none", &none, TensorRTPhase::kBUILD) != nullptr) return 2;
  PluginField given = creator.getFieldNames()->fields[0];
  given.data = &port;
  PluginFieldCollection fields{};
  fields.nbFields = 1;
  fields.fields = &given;
  IPluginV3* built = creator.createPlugin("port", &fields, TensorRTPhase::kBUILD);
  if (built == nullptr) return 3;

  auto* build = static_cast<IPluginV3OneBuild*>(built->getCapabilityInterface(PluginCapabilityType::kBUILD));
  auto* core = static_cast<IPluginV3OneCore*>(built->getCapabilityInterface(PluginCapabilityType::kCORE));
  if (std::strcmp(core->getPluginName(), creator.getPluginName()) != 0) return 4;
  if (!builds(*build, tensors)) return 5;

  auto* before = static_cast<IPluginV3OneRuntime*>(built->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  IPluginV3* restored = creator.createPlugin("port", before->getFieldsToSerialize(), TensorRTPhase::kRUNTIME);
  delete built;
  if (restored == nullptr) return 6;
  auto* kept = static_cast<IPluginV3OneRuntime*>(restored->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  IPluginV3* attached = kept->attachToContext(nullptr);
  delete restored;
  if (attached == nullptr) return 7;

  auto* runtime = static_cast<IPluginV3OneRuntime*>(attached->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  std::int32_t step = 0;
  if (runtime->onShapeChange(tensors.data(), kInputs, tensors.data() + kInputs, kOutputs) != 0) {
    step = 8;
  } else if (runtime->enqueue(tensors.data(), tensors.data() + kInputs, in, out, nullptr, nullptr) != 0) {
    step = 9;
  }
  delete attached;
  return step;
}
