"""Asks which libraries import here, in a process of its own: one that breaks, or hangs, costs only the asking.

python -m gpu_checks.probe NEED... prints one line of JSON for each: [need, null or why not].
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import warnings

_TOOLS = {"nvcc": ("nvcc",), "c++": ("c++", "g++", "clang++")}


def asked(need: str) -> str | None:
    """None where it is here, else why not, in one line."""
    if need in _TOOLS:
        return None if any(map(shutil.which, _TOOLS[need])) else "not on PATH"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _torch_sees_no_gpu() if need == "torch:cuda" else _imports(need)
    except Exception as error:  # a library that breaks on import does so in any way
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _imports(module: str) -> str | None:
    importlib.import_module("cuda.bindings.driver" if module == "cuda.bindings" else module)
    return None


def _torch_sees_no_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else f"torch {torch.__version__} sees no GPU"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(json.dumps([name, asked(name)]), flush=True)
