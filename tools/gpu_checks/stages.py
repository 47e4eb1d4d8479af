"""The stages of the check, in order of worth: what each does, what it needs, and what share of the time it may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_ENGINE = ("numpy", "ml_dtypes", "torch", "onnx", "onnxscript")
_CAMPAIGN = (
    *(*_ENGINE, "safetensors", "pydantic", "pandas", "pyarrow", "scipy", "sklearn", "PIL", "psutil", "filelock"),
    "rich",
)
_ON_GPU = ("torch:cuda",)


@dataclass(frozen=True)
class Stage:
    """``entry``: module and function, imported in a process of the stage's own. ``share``: of the budget, at most.

    ``needs``: modules that must import, "a|b": one of them; "torch:cuda": torch sees a GPU; "nvcc", "c++": on PATH.
    ``needs_on_gpu``: these too, unless the CPU stands in.
    """

    name: str
    what: str
    entry: str
    share: float
    needs: tuple[str, ...]
    needs_on_gpu: tuple[str, ...] = ()

    def wants(self, gpu: bool) -> tuple[str, ...]:
        return self.needs + (self.needs_on_gpu if gpu else ())


STAGES = (
    Stage(
        "kernels",
        "every fault kernel against the NumPy reference, bit for bit; bytes per second against a copy",
        "gpu_checks.kernels:kernels",
        0.20,
        ("numpy", "ml_dtypes", "c++"),
        ("cuda.bindings|pycuda", "nvcc"),
    ),
    Stage(
        "campaign",
        "one campaign in torch-cuda and in torch on the CPU: outcome against outcome, and the goldens",
        "gpu_checks.campaigns:campaign",
        0.35,
        _CAMPAIGN,
        _ON_GPU,
    ),
    Stage(
        "hooks",
        "faults in the twin against PyTorch's forward hooks, bit for bit: what was struck, and the logits",
        "gpu_checks.hooks:hooks",
        0.15,
        (*_ENGINE, "safetensors", "PIL"),
        _ON_GPU,
    ),
    Stage(
        "vit_base",
        "a campaign on ViT-Base at 224 px in torch-cuda: injections per second, memory",
        "gpu_checks.vit_base:vit_base",
        0.30,
        _CAMPAIGN,
        _ON_GPU,
    ),
    Stage(
        "latency",
        "how long a call takes at batch 1, 8, 32; what fault ports add",
        "gpu_checks.latency:latency",
        0.20,
        _ENGINE,
        _ON_GPU,
    ),
    Stage(
        "torch_cuda",
        "torch-cuda against a CPU engine: plain, other precisions, every site and weight struck",
        "gpu_checks.engines:torch_cuda",
        0.15,
        _ENGINE,
        _ON_GPU,
    ),
    Stage(
        "ort_cuda",
        "ONNX Runtime on CUDA: the same, and a campaign against ort-cpu",
        "gpu_checks.engines:ort_cuda",
        0.30,
        (*_CAMPAIGN, "onnxruntime"),
    ),
    Stage("tensorrt", "TensorRT: the same as torch_cuda", "gpu_checks.engines:tensorrt", 0.20, (*_ENGINE, "tensorrt")),
    Stage(
        "tensorrt_rtx",
        "TensorRT-RTX: the same as torch_cuda",
        "gpu_checks.engines:tensorrt_rtx",
        0.20,
        (*_ENGINE, "tensorrt_rtx"),
    ),
)


@dataclass(frozen=True)
class Missing:
    """What is not here, why, and the stages that are skipped for it."""

    name: str
    why: str
    stages: tuple[str, ...]


def missing(stages: tuple[Stage, ...], found: Mapping[str, str | None], gpu: bool) -> list[Missing]:
    """found: each single need -> None where it is here, else why not."""
    lacking: dict[str, list[str]] = {}
    for stage in stages:
        for need in stage.wants(gpu):
            if all(found[one] is not None for one in need.split("|")):
                lacking.setdefault(need, []).append(stage.name)
    return [
        Missing(
            need.replace("|", " or "),
            "; ".join(str(found[one]) for one in need.split("|")),
            tuple(names),
        )
        for need, names in lacking.items()
    ]
