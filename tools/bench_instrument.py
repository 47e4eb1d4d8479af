"""How long `testbed instrument` takes on a large ViT, and how much memory.

    python tools/bench_instrument.py [--model vit_base_patch16_224] [--beside] [--keep DIR] [--json]

The model is timm's, with random weights, written by torch's older exporter (timm and torch are needed: testbed[bench]).
It is instrumented by the command, in a process of its own, whose wall and processor time and peak resident memory are
told beside the file's size. ``--beside`` keeps the weights in a file of their own, as models past 2 GiB must.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any


def written(name: str, folder: Path, beside: bool) -> Path:
    """The file, made if it is not there already: by a process of its own, whose memory would count as its child's, too."""
    file = file_of(name, folder, beside)
    if not file.exists():
        options = ["--model", name, "--keep", str(folder), "--write-only", *(["--beside"] if beside else [])]
        subprocess.run([sys.executable, __file__, *options], check=True)
    return file


def file_of(name: str, folder: Path, beside: bool) -> Path:
    return folder / f"{name}{'.beside' if beside else ''}.onnx"


def write(name: str, folder: Path, beside: bool) -> None:
    """Export timm's model with random weights."""
    file = file_of(name, folder, beside)
    import torch

    importlib.import_module("testbed.data.torchvision_import")  # makes torchvision importable for timm
    timm: Any = importlib.import_module("timm")
    torch.manual_seed(0)
    model: Any = timm.create_model(name, pretrained=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # so that none is like another, and none is stored once for several
            parameter.copy_(0.02 * torch.randn(parameter.shape))
    size = model.default_cfg["input_size"]
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(2, *size),),
            str(file),
            dynamo=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
        )
    if beside:
        import onnx

        onnx.save(onnx.load(file), file, save_as_external_data=True, location=f"{file.name}.data")


def measured(file: Path, to: Path) -> dict[str, Any]:
    """Of one run of the command."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "testbed", "instrument", str(file), "--to", str(to), "--json"]
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    data = file.with_name(f"{file.name}.data")
    size = file.stat().st_size + (data.stat().st_size if data.exists() else 0)
    return {
        "file_mb": size / 1e6,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss * 1024 / 1e6,
        "peak_of_file": usage.ru_maxrss * 1024 / size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224", help="name of a timm model")
    parser.add_argument("--beside", action="store_true", help="keep the weights beside the file")
    parser.add_argument("--keep", type=Path, help="folder in which the file is left, and looked for")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write-only", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.write_only:
        write(asked.model, asked.keep, asked.beside)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        figures = measured(written(asked.model, folder, asked.beside), Path(scratch) / "twin")
    if asked.json:
        print(json.dumps({"model": asked.model, **figures}))
        return
    print(
        f"{asked.model}: {figures['file_mb']:.0f} MB; instrumented in {figures['seconds']:.1f} s"
        f" ({figures['cpu_seconds']:.1f} s of one processor), peak memory {figures['peak_mb']:.0f} MB,"
        f" {figures['peak_of_file']:.2f} x the file"
    )


if __name__ == "__main__":
    main()
