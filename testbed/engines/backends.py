"""All engines by name, those of this package and those that other packages register; what each offers and needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from testbed.core.errors import EngineError, UsageError
from testbed.core.formats import PRECISIONS
from testbed.core.words.nearest import unknown
from testbed.engines.availability import (
    ORT_PACKAGE,
    Ask,
    MissingLibrary,
    ask_library,
    ask_library_and_gpu,
    ask_onnxruntime_cuda,
    ask_torch_cuda,
)
from testbed.engines.plugins import engine_plugins


class RegisteredEngine(Protocol):
    """What is known of an engine before it is built, whoever brings it."""

    @property
    def name(self) -> str: ...

    @property
    def precisions(self) -> Sequence[str]:
        """Number formats of the files that it takes. Raises EngineError for one of another package that does not load."""
        ...

    @property
    def runner(self) -> Callable[[Any], Any]:
        """The runner class, imported now, with the engine's library. It takes an `EngineRequest`."""
        ...

    def available(self) -> tuple[bool, str]:
        """Whether it can run here, and its version, or in one line why not and what to install."""
        ...


@dataclass(frozen=True)
class Backend:
    """An engine of this package.

    runner_path: MODULE:CLASS below `testbed.engines`; library: the module that it needs; package: what pip installs to have
    that; ask: how the library is asked whether it works here.
    """

    name: str
    runner_path: str
    library: str
    package: str
    ask: Ask = ask_library
    precisions: Sequence[str] = PRECISIONS
    on_gpu: bool = False

    @property
    def runner(self) -> Callable[[Any], Any]:
        module, _, runner = self.runner_path.partition(":")
        loaded: Callable[[Any], Any] = getattr(import_module(f"testbed.engines.{module}"), runner)
        return loaded

    def available(self) -> tuple[bool, str]:
        try:
            return True, self.ask(self.library, self.package)
        except MissingLibrary as missing:
            return False, str(missing)


BACKENDS: Mapping[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            "ort-cpu",
            "onnxruntime.cpu:OrtCpuRunner",
            "onnxruntime",
            ORT_PACKAGE,
            precisions=("fp32", "fp16", "int8"),  # its CPU provider has no bf16 MatMul
        ),
        Backend(
            "ort-cuda",
            "onnxruntime.cuda:OrtCudaRunner",
            "onnxruntime",
            "onnxruntime-gpu",
            ask_onnxruntime_cuda,
            on_gpu=True,
        ),
        Backend("torch", "torch.runner:TorchRunner", "torch", "torch"),
        Backend("torch-cuda", "torch.runner:TorchCudaRunner", "torch", "torch", ask_torch_cuda, on_gpu=True),
        Backend("openvino", "openvino:OpenVinoRunner", "openvino", "openvino"),
        Backend("tensorrt", "tensorrt.runner:TensorRtRunner", "tensorrt", "tensorrt", ask_library_and_gpu, on_gpu=True),
        Backend(
            "tensorrt-rtx",
            "tensorrt.runner:TensorRtRtxRunner",
            "tensorrt_rtx",
            "tensorrt-rtx-cu13",
            ask_library_and_gpu,
            on_gpu=True,
        ),
    )
}
"""The engines of this package: their names stay theirs."""


def registered_engine(name: str) -> RegisteredEngine:
    """The engine of that name. Raises UsageError for one that nobody offers."""
    engine = BACKENDS.get(name) or engine_plugins().get(name)  # packages are looked through only where they must be
    if engine is None:
        raise UsageError(unknown("engine", name, known_engines()))
    return engine


def is_known_engine(name: str) -> bool:
    """Whether this version, or a package that is installed, offers an engine of this name."""
    return name in BACKENDS or name in engine_plugins()


def known_engines() -> list[str]:
    """Names of all engines, on whatever machine; those of other packages come last."""
    return list(dict.fromkeys([*BACKENDS, *engine_plugins()]))


def available(name: str) -> tuple[bool, str]:
    """Whether the engine can run here, and its version, or in one line why not and what to install.

    Imports the engine's library. Raises UsageError for an engine that nobody offers.
    """
    return registered_engine(name).available()


def precisions_of(name: str) -> Sequence[str]:
    """What an engine offers. Raises UsageError for an unknown one, EngineError for one of another package that does not
    load."""
    return registered_engine(name).precisions


def check_engine(name: str, precision: str) -> None:
    """Raises UsageError for an engine or a precision that this version does not offer, on whatever machine, EngineError for
    an engine of another package that does not load."""
    offered = precisions_of(name)
    if precision not in offered:
        raise UsageError(f"engine {name!r} does not offer {precision!r}; it offers {', '.join(offered)}")


def require_engine(name: str) -> None:
    """Raises EngineError saying why this machine cannot run the engine, and what to install."""
    usable, reason = available(name)
    if not usable:
        raise EngineError(f"engine {name!r} cannot run here: {reason}")
