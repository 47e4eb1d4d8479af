"""Checks on a GPU host, within a budget of time, what no other machine can run, and writes what it finds as JSON.

It runs from a plain checkout: nothing has to be installed, and what is not on the machine (a library, nvcc) only skips the
stages that need it. It compiles the kernels itself. Stages run in order of worth, each in a process of its own that is
ended at its limit; the report is whole at any moment.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT)]  # the checkout's, whatever is installed

from gpu_checks.common import Setting, write_json  # noqa: E402
from gpu_checks.running import Report, probe, run_stages, told  # noqa: E402
from gpu_checks.stages import STAGES, Missing, Stage, missing  # noqa: E402

from testbed import TestbedError  # noqa: E402
from testbed.testing import cuda_devices  # noqa: E402

FORMAT = 2  # of the report
OK, ERROR, NOT_OK = 0, 1, 3
BUDGET_S = 480
PROBE_SHARE = 0.15  # of the budget: for importing every library once
LIBRARIES = (
    *("testbed", "numpy", "torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "tensorrt"),
    *("tensorrt-rtx-cu13", "pycuda", "cuda-bindings", "cupy-cuda13x", "ml-dtypes", "pydantic", "pyarrow"),
)
EXAMPLES = """
examples:
  python tools/gpu_check.py                                   all stages, within 480 s
  python tools/gpu_check.py --budget 240 --stages kernels,hooks --to report.json
  python tools/gpu_check.py --weights vit.pth --data imagefolder:images --preprocess cifar10
  PYTHONPATH=wheels python tools/gpu_check.py                 with libraries unpacked in a folder
  python tools/gpu_check.py --without-gpu                     the same code on the CPU, small

exit status: 0 nothing failed and a stage passed; 1 no GPU, or the report cannot be written; 2 a wrong call; 3 a stage
failed or was ended at its limit, or none could run
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.list:
        print("\n".join(f"{stage.name:14}{stage.share:5.0%}  {stage.what}" for stage in STAGES))
        return OK
    devices, reason = ([], "") if options.without_gpu else cuda_devices()
    if not devices and not options.without_gpu:
        print(f"no GPU: {reason}; --without-gpu runs the same stages on the CPU", file=sys.stderr)
        return ERROR
    path = options.to or ROOT / "golden" / "gpu" / f"{options.date}-{slug(devices)}.json"
    try:
        report = _checked(options, path, devices)
    except TestbedError as error:
        print(f"error: {error}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        print(f"\nstopped; what was found so far is in {path}", file=sys.stderr)
        return ERROR
    if options.json:
        print(json.dumps(report.to_dict(), indent=1))
    else:
        print("\n".join(f"{name:14}{told(record)}" for name, record in report.stages.items()))
        print(f"{'ok' if report.ok else 'not ok'}: {path}")
    return OK if report.ok else NOT_OK


def _checked(options: argparse.Namespace, path: Path, devices: list[str]) -> Report:
    """Raises TestbedError where the report cannot be written: before anything is run."""
    report = Report(path, _header(options, devices))
    write_json(path, report.to_dict())
    gpu = not options.without_gpu
    began = datetime.datetime.now()
    needs = list(dict.fromkeys(n for stage in options.stages for need in stage.wants(gpu) for n in need.split("|")))
    lacking = missing(options.stages, probe(needs, PROBE_SHARE * options.budget), gpu)
    report.header["missing"] = [{"name": m.name, "why": m.why, "skips": list(m.stages)} for m in lacking]
    print(_lacking_text(lacking), file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as folder:
        shared = Path(folder) / "shared"
        shared.mkdir()
        setting = Setting(
            gpu=gpu,
            quick=options.quick or not gpu,
            folder=Path(folder),
            shared=shared,
            weights=options.weights and options.weights.resolve(),
            data=options.data,
            preprocess=options.preprocess,
        )
        spent = (datetime.datetime.now() - began).total_seconds()
        run_stages(options.stages, setting, report, lacking, budget_s=options.budget - spent, say=_say)
    return report


def _say(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def _lacking_text(lacking: Sequence[Missing]) -> str:
    if not lacking:
        return "nothing is missing here"
    lines = (f"  {m.name} ({m.why}): skips {', '.join(m.stages)}" for m in lacking)
    return "\n".join(["missing here:", *lines])


def _header(options: argparse.Namespace, devices: list[str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "ok": False,
        "date": options.date.isoformat(),
        "device": devices[0] if devices else None,
        "devices": devices,
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if devices else None,
        "without_gpu": options.without_gpu,
        "quick": options.quick,
        "budget_s": options.budget,
        "revision": options.revision or _said("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: version for name in LIBRARIES if (version := _version(name))},
        "missing": [],
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


def slug(devices: list[str]) -> str:
    return re.sub(r"[^a-z0-9]+", "-", devices[0].lower()).strip("-") if devices else "without-gpu"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=text)
    add = parser.add_argument
    add("--budget", type=_seconds, default=BUDGET_S, metavar="SECONDS", help=f"for everything; {BUDGET_S} unless given")
    add("--to", type=Path, metavar="FILE", help="the report; golden/gpu/<date>-<device>.json unless given")
    add("--stages", type=_stages, default=STAGES, metavar="A,B", help="only these, in their own order; see --list")
    add("--list", action="store_true", help="the stages and the share of the budget that each may take, and no more")
    add(
        "--weights", type=_file, metavar="FILE", help="a trained ViT, as `testbed import` reads it; else random weights"
    )
    add("--data", metavar="NAME", help="its images, such as imagefolder:DIR; else random ones")
    add("--preprocess", metavar="NAME", help="how the images are normalised, if not as is usual for the data set")
    add("--without-gpu", action="store_true", help="the same stages on the CPU, with small sizes")
    add("--quick", action="store_true", help="small sizes, to try the checks themselves")
    add("--json", action="store_true", help="print the whole report")
    add("--date", type=_date, default=datetime.date.today(), help="of the report; today unless given")
    add("--revision", metavar="TEXT", help="of this checkout, where git cannot tell: a copy without its .git folder")
    options = parser.parse_args(arguments)
    if options.data and not options.weights:
        parser.error("--data is of the model in --weights FILE; give that too")
    if options.preprocess and not options.data:
        parser.error("--preprocess is of the images in --data NAME; give that too")
    return options


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds such as 480")
    return seconds


def _stages(text: str) -> tuple[Stage, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = [stage.name for stage in STAGES]
    if unknown := [name for name in names if name not in known] or ([] if names else [text]):
        raise argparse.ArgumentTypeError(f"unknown stage {unknown[0]!r}; known: {', '.join(known)}")
    return tuple(stage for stage in STAGES if stage.name in names)


def _file(text: str) -> Path:
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"no such file: {text}")
    return Path(text)


def _date(text: str) -> datetime.date:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a date such as 2026-01-31")
    return datetime.date.fromisoformat(text)


if __name__ == "__main__":
    sys.exit(main())
