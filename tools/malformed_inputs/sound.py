"""The sound inputs that cases are made of, written by the project's own commands: seconds, and nothing downloaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from malformed_inputs.case import Base

SPEC = """
name = "tiny"
seed = 42

[data]
name = "digits"

[model]
run = "MODEL"

[tiers]
edges = [0.5, 1.0]
images = [3, 3]
thin = 4

[engine]
backend = "ort-cpu"
precision = "fp32"
batch = 16
threads = 1
unit = 64

[gates]
zero_fault_rows = 32
allow_chance_accuracy = true

[tolerance]
atol = 1e-4
rtol = 1e-4
rtol_grid = [0.0, 1e-4]

[exposure]
sites = { "*" = 1.0 }
per_bit = true

[[faults]]
target = "model"
where = "activation"
ops = ["flip"]
sites = ["*.softmax", "head"]
bits = [0, 12, 30, 31]
per_stratum = 2

[[faults]]
target = "model"
where = "weight"
ops = ["flip", "stuck0"]
sites = ["head.bias"]
bits = [30]
per_stratum = 1

[[faults]]
target = "attention"
where = "activation"
ops = ["flip"]
bits = [30]
per_stratum = 1
"""
_SMALL = (
    "--set",
    "heads=[2]",
    "--set",
    "mlp=[32]",
    "--set",
    "width=16",
    "--set",
    "head_width=8",
    "--set",
    "qkv_bias=false",
    "--set",
    "learning_rate=0.01",
    "--set",
    "input_noise=0.0",
    "--set",
    "label_smoothing=0.0",
)


def made(folder: Path) -> Base:
    """Raises RuntimeError where a sound input is refused."""
    model, run, other, weights = (folder / name for name in ("model", "run", "other", "weights"))
    spec = SPEC.replace("MODEL", str(model))
    base = Base(run, other, model, (weights / "w.pth", weights / "w.safetensors"), run / "model.onnx", spec)
    if (other / "summary.json").exists():
        return base
    weights.mkdir(parents=True)
    (folder / "spec.toml").write_text(spec)
    do("train", "digits", "--dataset", "digits", "--run", model, "--epochs", "6", *_SMALL)
    do("golden", model, "--images", "0:60")
    do("tiers", model, "--tiers", "4")
    for name in ("w.pth", "w.safetensors"):
        do("export-weights", model, "--to", weights / name)
    for to in (run, other):
        seed = ("--set", "engine.ports=op") if to == other else ()
        do("campaign", "run", folder / "spec.toml", "--run", to, *seed)
    return base


def do(*arguments: object) -> None:
    """Runs a command, in a process of its own: this one must stay free of engines and their threads."""
    words = [str(argument) for argument in arguments]
    done = subprocess.run([sys.executable, "-m", "testbed", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"testbed {' '.join(words)}: exit {done.returncode}: {done.stderr[-2000:]}")
