"""``testbed doctor`` about the native libraries (``kernels/``) and the compiler of the CUDA ones."""

from __future__ import annotations

import re
import shutil
import subprocess

from testbed.core.errors import EngineError
from testbed.core.process import libraries
from testbed.doctor.findings import NEEDS_DRIVER, Finding, first_line, probe
from testbed.engines import cuda, native
from testbed.engines.gpu import cuda_devices

_ABI = f"ABI {libraries.ABI_VERSION}"


def kernel_findings(install_onnxruntime: str) -> list[Finding]:
    """Each library is loaded, and made to compute where it can."""
    return [
        _library("cpu kernel", libraries.CPU),
        probe("onnxruntime op", _onnxruntime_op, install_onnxruntime),
        _cuda_kernel("cuda kernel"),
        _library("tensorrt plugin", libraries.TENSORRT),
        _nvcc(),
    ]


def _library(name: str, library: str) -> Finding:
    try:
        return Finding(name, True, _ABI, str(libraries.load(library)[1]))
    except EngineError as error:
        return Finding(name, False, None, str(error), f"{libraries.needed_for(library)}, then testbed again")


def _cuda_kernel(name: str) -> Finding:
    built = _library(name, libraries.CUDA)
    if not built.available:
        return built
    _, reason = cuda_devices()
    if reason:
        return Finding(name, False, _ABI, f"built, but {reason}: {built.detail}", NEEDS_DRIVER)
    usable, detail = cuda.available()
    return Finding(name, usable, _ABI, detail, None if usable else "pip install cuda-bindings")


def _onnxruntime_op(name: str) -> Finding:
    """A session with one port and one armed fault."""
    built = _library(name, libraries.ONNXRUNTIME)
    if not built.available:
        return built
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    kinds = [TensorProto.FLOAT, *[TensorProto.INT64] * 2, *[TensorProto.UINT32] * 3]
    inputs = [helper.make_tensor_value_info(f"in{i}", kind, [1, 1]) for i, kind in enumerate(kinds)]
    outputs = [helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, 1]) for y in ("y", "current")]
    node = helper.make_node("FaultPort", [i.name for i in inputs], ["y", "current"], domain="testbed", port=0)
    graph = helper.make_graph([node], "probe", inputs, outputs)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("testbed", 1)]
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(built.detail)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    words = [np.array([[word]], np.uint32) for word in (2**32 - 1, 0, 1 << 31)]
    feeds = [np.ones((1, 1), np.float32), *[np.zeros((1, 1), np.int64)] * 2, *words]
    faulty, current = session.run(None, {f"in{i}": array for i, array in enumerate(feeds)})
    providers = "CPU and CUDA providers" if native.op_runs_on_cuda() else "CPU provider"
    right = faulty.item() == -1 and current.item() == 1
    return Finding(name, right, _ABI, f"computes, for the {providers}: {built.detail}")


def _nvcc() -> Finding:
    path = shutil.which("nvcc")
    if path is None:
        return Finding("nvcc", False, None, "not on PATH; it compiles CUDA kernels", "the CUDA toolkit")
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("nvcc", False, None, f"{path} does not run: {first_line(error)}", "the CUDA toolkit")
    release = re.search(r"release ([\d.]+)", answer)
    return Finding("nvcc", True, release[1] if release else None, path)
