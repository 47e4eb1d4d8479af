"""``testbed doctor`` about the engines: each is imported, and made to compute where its library can."""

from __future__ import annotations

import importlib
from functools import partial

from testbed.doctor.findings import NEEDS_DRIVER, Finding, probe
from testbed.engines.backends import BACKENDS, Backend
from testbed.engines.gpu import cuda_devices
from testbed.engines.plugins import EnginePlugin, engine_plugins

_ORT_CPU, _ORT_CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def engine_findings() -> list[Finding]:
    """PyTorch first, since it makes what the others run; engines of other packages last."""
    backends = sorted(BACKENDS.values(), key=lambda backend: backend.library != "torch")
    return [*map(_backend, backends), *map(_plugin, engine_plugins().values())]


def _backend(backend: Backend) -> Finding:
    compute = _COMPUTE.get(backend.library, _ask)
    return probe(backend.name, partial(compute, backend), f"pip install {backend.package}")


def _plugin(plugin: EnginePlugin) -> Finding:
    """An engine of another package."""
    if plugin.name in BACKENDS:
        return Finding(plugin.name, False, plugin.version, f"{plugin} is not used: the testbed has one of that name")
    usable, detail = plugin.available()
    if not usable:
        return Finding(plugin.name, False, plugin.version, detail, f"pip install --force-reinstall {plugin.package}")
    return Finding(plugin.name, True, detail, f"of package {plugin.package}")


def _ask(backend: Backend, name: str) -> Finding:
    """Import a library that nothing here makes compute."""
    usable, detail = backend.available()
    if not usable:
        return Finding(name, False, None, detail, f"pip install {backend.package}")
    return Finding(name, True, detail, "imports")


def _torch(backend: Backend, name: str) -> Finding:
    import torch

    if not backend.on_gpu:
        total = torch.ones(2).sum().item()
        return Finding(name, total == 2, torch.__version__, "computes")
    if torch.version.cuda is None:
        return Finding(name, False, torch.__version__, "this build of torch has no CUDA", "a CUDA build of torch")
    _, reason = cuda_devices()
    if reason:
        return Finding(name, False, torch.__version__, reason, NEEDS_DRIVER)
    total = torch.ones(2, device="cuda").sum().item()
    return Finding(name, total == 2, torch.__version__, f"computes, CUDA {torch.version.cuda}")


def _onnxruntime(backend: Backend, name: str) -> Finding:
    import onnxruntime

    version = onnxruntime.__version__
    if not backend.on_gpu:
        return Finding(name, _ort_runs_on(_ORT_CPU) == _ORT_CPU, version, "computes")
    if _ORT_CUDA not in onnxruntime.get_available_providers():
        install = "pip uninstall onnxruntime, then pip install onnxruntime-gpu (the two conflict)"
        return Finding(name, False, version, "this build of onnxruntime has no CUDA provider", install)
    _, reason = cuda_devices()
    if reason:
        return Finding(name, False, version, f"the CUDA provider is there, but {reason}", NEEDS_DRIVER)
    provider = _ort_runs_on(_ORT_CUDA)
    if provider != _ORT_CUDA:
        install = "the CUDA and cuDNN libraries that this onnxruntime was built for"
        return Finding(name, False, version, f"asked for CUDA, it fell back to {provider}", install)
    return Finding(name, True, version, "computes")


def _ort_runs_on(provider: str) -> str:
    """The provider that a session asked for ``provider`` really took; ONNX Runtime falls back without an error."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "probe", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # a failed provider is reported as a finding, not as a log on stderr
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[provider])
    session.run(None, {"x": np.ones(2, np.float32)})
    taken: str = session.get_providers()[0]
    return taken


def _openvino(backend: Backend, name: str) -> Finding:
    import openvino

    from testbed.engines.openvino import shared_core

    devices = shared_core().available_devices
    return Finding(name, "CPU" in devices, openvino.__version__, f"devices: {', '.join(devices) or 'none'}")


def _tensorrt(backend: Backend, name: str) -> Finding:
    version = str(importlib.import_module(backend.library).__version__)
    devices, reason = cuda_devices()
    if reason:
        return Finding(name, False, version, f"imports, but cannot run: {reason}", NEEDS_DRIVER)
    return Finding(name, True, version, f"imports; devices: {', '.join(devices)}")


_COMPUTE = {
    "torch": _torch,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tensorrt": _tensorrt,
    "tensorrt_rtx": _tensorrt,
}
"""Library -> what it is made to compute."""
