// The CUDA half of the ONNX Runtime op, registered for the CPU provider: with the emulated kernels beside it, what it does
// between ONNX Runtime and the kernels runs without a GPU.
#define RegisterCustomOps RegisterShippedOps
#include "onnxruntime_op.cpp"
#undef RegisterCustomOps

namespace {

struct OnCpuProvider : FaultPort {
  explicit OnCpuProvider(ort::ElementType element_type) : FaultPort(element_type, cuda_library()) {
    get_execution_provider = [](const CustomOp*) -> const char* { return nullptr; };
  }
};

}  // namespace

TESTBED_EXPORT ort::Status* RegisterCustomOps(ort::SessionOptions* options, const ort::ApiBase* base) {
  const ort::Api api(base->get_api(ort::kApiVersion));
  return guarded(api, [&] {
    if (cuda_library() == nullptr) throw std::runtime_error("the emulated kernels are not beside the op");
    shape_api = api;
    static std::vector<OnCpuProvider> ops(kTypes.begin(), kTypes.end());
    static ort::CustomOpDomain* made = nullptr;
    if (made == nullptr) {
      check(api(ort::kCreateCustomOpDomain)(kDomain, &made));
      for (const OnCpuProvider& op : ops) check(api(ort::kCustomOpDomainAdd)(made, &op));
    }
    check(api(ort::kAddCustomOpDomain)(options, made));
  });
}
