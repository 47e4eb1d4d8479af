"""Checks on a GPU host what no other machine can run, and writes what it finds as JSON.

    python tools/gpu_check.py --out report.json

Each section runs in a process of its own, so that none can spoil another: {"ok": true, ...}, or {"ok": false, "reason":
...}; "ran" tells a section that failed from one whose library is not here. Exit code: 0 if every section that could run
is ok, 3 if one is not or none could run, 1 without a GPU (unless --without-gpu), 2 for a wrong call.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import fields
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if find_spec("testbed") is None:  # not installed: the checkout's
    sys.path.append(str(ROOT))

from gpu_checks.common import Absent, Section, Setting  # noqa: E402

from testbed.core.errors import TestbedError  # noqa: E402
from testbed.core.files import write_json  # noqa: E402
from testbed.engines.doctor_findings import cuda_devices, first_line  # noqa: E402

FORMAT = 1  # of the report
OK, NO_GPU, NOT_OK = 0, 1, 3
SECTION_SECONDS = 3600  # a section that takes longer hangs
LIBRARIES = (
    *("testbed", "numpy", "torch", "onnx", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx-cu13"),
    *("pycuda", "cuda-bindings", "ml-dtypes"),
)


# Sections import what they need themselves: a library that breaks on import costs its own section only.


def kernel_numerics(setting: Setting) -> Section:
    from gpu_checks.kernels import numerics

    return numerics(setting)


def kernel_bandwidth(setting: Setting) -> Section:
    setting.require_gpu()
    from gpu_checks.kernels import bandwidth

    return bandwidth(setting)


def campaign_concordance(setting: Setting) -> Section:
    from gpu_checks.campaigns import concordance

    return concordance(setting)


def _engine(backend: str) -> Callable[[Setting], Section]:
    def steps_of(setting: Setting) -> Section:
        from gpu_checks.common import require

        require(backend)
        from gpu_checks.engines import steps

        return steps(setting, backend)

    return steps_of


def torch_cpu(setting: Setting) -> Section:
    """Stands in for the engines of a GPU where there is none."""
    if setting.gpu:
        raise Absent("only without a GPU")
    return _engine("torch")(setting)


def cuda_graphs(setting: Setting) -> Section:
    from testbed.engines.runner import EngineRequest

    if not any("graph" in field.name for field in fields(EngineRequest)):
        raise Absent("not offered: no engine of this version is told to use CUDA graphs")
    raise NotImplementedError("EngineRequest now offers CUDA graphs; measure small batches with and without them here")


def latency(setting: Setting) -> Section:
    from gpu_checks.latency import latency as measured

    return measured(setting)


SECTIONS: dict[str, Callable[[Setting], Section]] = {
    "kernel_numerics": kernel_numerics,
    "kernel_bandwidth": kernel_bandwidth,
    "campaign_concordance": campaign_concordance,
    "torch": torch_cpu,
    "torch_cuda": _engine("torch-cuda"),
    "ort_cuda": _engine("ort-cuda"),
    "tensorrt": _engine("tensorrt"),
    "tensorrt_rtx": _engine("tensorrt-rtx"),
    "cuda_graphs": cuda_graphs,
    "latency": latency,
}


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    if options.section:
        setting = Setting(not options.without_gpu, options.quick, options.out.parent)
        write_json(options.out, _without_nan(run_section(SECTIONS[options.section], setting)))
        return OK
    devices, reason = cuda_devices()
    if not devices and not options.without_gpu:
        print(f"no GPU: {reason}; --without-gpu tries the checks themselves on the CPU", file=sys.stderr)
        return NO_GPU
    report = _header(options, [] if options.without_gpu else devices)
    chosen = options.only or list(SECTIONS)
    for number, name in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {name}: ", end="", file=sys.stderr, flush=True)
        report["sections"][name] = found = in_own_process(name, options)
        print("ok" if found["ok"] else found["reason"], file=sys.stderr)
        report["ok"] = verdict(report["sections"])
        write_json(options.out, report)  # after each: what was measured is not lost
    return OK if report["ok"] else NOT_OK


def verdict(sections: dict[str, Section]) -> bool:
    """Every section that could run is ok, and there is one."""
    ran = [section for section in sections.values() if section["ran"]]
    return bool(ran) and all(section["ok"] for section in ran)


def run_section(section: Callable[[Setting], Section], setting: Setting) -> Section:
    """What the section found, or why it failed; ``ran`` is false where it could not be tried."""
    try:
        return {"ran": True, **section(setting)}
    except Absent as absent:
        return {"ran": False, "ok": False, "reason": str(absent)}
    except TestbedError as error:
        return {"ran": True, "ok": False, "reason": str(error)}
    except Exception as error:  # a foreign library's, or a mistake of ours: the other sections are still worth running
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        return {"ran": True, "ok": False, "reason": f"{type(error).__name__} at {place}: {first_line(error)}"}


def in_own_process(name: str, options: argparse.Namespace) -> Section:
    """A library that ends the process, hangs, or leaves the GPU unusable spoils no other section."""
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, str(Path(__file__).resolve()), "--section", name, "--out", str(result)]
        command += ["--without-gpu"] * options.without_gpu + ["--quick"] * options.quick
        environment = {"OMP_NUM_THREADS": "1"} | os.environ
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECTION_SECONDS)
        except subprocess.TimeoutExpired:
            return {"ran": True, "ok": False, "reason": f"not done after {SECTION_SECONDS} s"}
        if done.returncode or not result.is_file():
            said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
            return {"ran": True, "ok": False, "reason": f"the process ended with {done.returncode}: {said}"}
        found: Section = json.loads(result.read_text())
        return found


def _header(options: argparse.Namespace, devices: list[str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "ok": False,
        "date": options.date.isoformat(),
        "quick": options.quick,
        "devices": devices,
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if devices else None,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "commit": _said("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"),
        "versions": {name: version for name in LIBRARIES if (version := _version(name))},
        "sections": {},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _said(*command: str) -> str | None:
    """First line of a command's output; None where it fails or is not there."""
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    return lines[0].strip() if lines else None


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become text. NumPy's numbers become Python's."""
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _options(arguments: list[str] | None) -> argparse.Namespace:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=text)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the report, JSON")
    parser.add_argument("--date", type=_date, default=datetime.date.today(), help="of the report; today unless given")
    parser.add_argument("--only", action="append", choices=list(SECTIONS), help="this section; may be given again")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the checks themselves")
    parser.add_argument("--without-gpu", action="store_true", help="what can be done on the CPU")
    parser.add_argument("--section", choices=list(SECTIONS), help=argparse.SUPPRESS)  # in its own process
    return parser.parse_args(arguments)


def _date(text: str) -> datetime.date:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a date such as 2026-01-31")
    return datetime.date.fromisoformat(text)


if __name__ == "__main__":
    sys.exit(main())
