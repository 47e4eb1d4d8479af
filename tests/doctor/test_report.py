from __future__ import annotations

import json
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from testbed.cli.main import cli
from testbed.doctor import engines
from testbed.doctor import report as doctor
from testbed.engines.backends import BACKENDS
from testbed.engines.gpu import cuda_devices

ENGINES = ["torch", "torch-cuda", "ort-cpu", "ort-cuda", "openvino", "tensorrt", "tensorrt-rtx"]
KERNELS = ["cpu kernel", "onnxruntime op", "cuda kernel", "tensorrt plugin", "nvcc"]
FINDING: dict[str, Any] = {
    "name": str,
    "available": bool,
    "version": (str, type(None)),
    "detail": str,
    "install": (str, type(None)),
}


def finding(name: str) -> doctor.Finding:
    return next(f for f in doctor.diagnose().engines if f.name == name)


def test_json_has_the_promised_shape() -> None:
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert list(report) == ["python", "host", "engines", "kernels", "libraries"]
    assert list(report["python"]) == ["version", "executable"]
    assert list(report["host"])[:4] == ["platform", "machine", "cpu", "usable_cores"]
    assert list(report["host"])[4:] == ["memory_gib", "gpus", "gpu_reason"]
    assert [engine["name"] for engine in report["engines"]] == ENGINES
    assert set(ENGINES) == set(BACKENDS)  # by the names that a spec has them under
    assert [kernel["name"] for kernel in report["kernels"]] == KERNELS
    for item in report["engines"] + report["kernels"] + report["libraries"]:
        assert list(item) == list(FINDING)
        assert all(isinstance(item[key], kind) for key, kind in FINDING.items())
        assert item["detail"]
        assert item["available"] or item["install"]


def test_the_engines_that_every_install_has_work() -> None:
    works = {engine.name: engine.available for engine in doctor.diagnose().engines}
    assert works["torch"]
    assert works["ort-cpu"]


def test_text_says_why_and_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # as if it were not installed
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 0
    assert re.search(r"openvino +no .*not installed +pip install openvino", result.stdout)
    assert re.search(r"ort-cpu +yes", result.stdout)


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (set(), (True, "required")),
        ({"torchvision"}, (True, "required; works in testbed only: `import torchvision` fails (no operator)")),
        (
            {"torchvision", "testbed.data.torchvision_import"},
            (False, "required, but `import torchvision` fails (no operator)"),
        ),
    ],
)
def test_torchvision_is_really_imported(
    monkeypatch: pytest.MonkeyPatch, broken: set[str], told: tuple[bool, str]
) -> None:
    """Installed it may be, and fail all the same beside another build of torch."""

    def imported(name: str) -> None:
        if name in broken:
            raise RuntimeError("no operator")

    monkeypatch.setattr(doctor.importlib, "import_module", imported)
    found = next(library for library in doctor.diagnose().libraries if library.name == "torchvision")
    assert (found.available, found.detail) == told
    assert found.version


@pytest.mark.parametrize("error", ["OSError('libfoo.so: not found')", "RuntimeError('two\\nlines')", "ValueError()"])
def test_a_library_that_breaks_on_import_is_a_finding(
    error: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "openvino.py").write_text(f"raise {error}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    broken = finding("openvino")
    assert not broken.available
    assert broken.detail.startswith("does not work: ")
    assert "\n" not in broken.detail
    assert broken.install


def test_an_onnxruntime_without_cuda_says_which_package_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    missing = finding("ort-cuda")
    assert not missing.available
    assert "no CUDA provider" in missing.detail
    assert "onnxruntime-gpu" in str(missing.install)


@pytest.mark.skipif(bool(cuda_devices()[0]), reason="this machine has a GPU, so nothing falls back")
def test_a_silent_fallback_to_the_cpu_is_not_called_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this build of onnxruntime has no CUDA provider that could fall back")
    monkeypatch.setattr(engines, "cuda_devices", lambda: (["a GPU"], ""))
    fallen = finding("ort-cuda")
    assert not fallen.available
    assert "fell back to CPUExecutionProvider" in fallen.detail


def kernel(name: str) -> doctor.Finding:
    return next(f for f in doctor.diagnose().kernels if f.name == name)


def test_native_libraries_are_made_to_compute(monkeypatch: pytest.MonkeyPatch, native_build: Path) -> None:
    monkeypatch.setenv("TESTBED_NATIVE", str(native_build))
    assert kernel("cpu kernel").available
    op = kernel("onnxruntime op")
    assert op.available
    assert op.detail.startswith("computes, for the CPU provider: ")
    missing = kernel("cuda kernel")
    assert not missing.available
    assert "nvcc" in str(missing.install)


@pytest.mark.skipif(bool(cuda_devices()[0]), reason="this machine has a GPU, so nothing is missing")
def test_cuda_kernels_without_a_gpu_say_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, emulated_cuda_build: Path
) -> None:
    monkeypatch.setenv("TESTBED_NATIVE", str(emulated_cuda_build))
    built = kernel("cuda kernel")
    assert not built.available
    assert built.detail.startswith("built, but ")
    assert built.install == "an NVIDIA GPU with its driver"


def test_an_op_library_that_does_not_compute_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, native_build: Path, tmp_path: Path
) -> None:
    """It has the right ABI number, and is another library."""
    shutil.copy(native_build / "testbed_cpu.so", tmp_path / "testbed_onnxruntime.so")
    monkeypatch.setenv("TESTBED_NATIVE", str(tmp_path))
    broken = kernel("onnxruntime op")
    assert not broken.available
    assert broken.detail.startswith("does not work: ")


def test_it_knows_every_dependency() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in project["dependencies"]}
    assert names == {*doctor.REQUIRED, "onnxruntime-gpu"}
    extras = project["optional-dependencies"]
    ours = {
        extra: all_of for extra, all_of in extras.items() if extra not in ("test", "bench", "docs")
    }  # what testbed itself uses
    optional = [requirement for all_of in ours.values() for requirement in all_of]
    assert {re.split(r"[^\w-]", requirement)[0] for requirement in optional} == set(doctor.OPTIONAL)
