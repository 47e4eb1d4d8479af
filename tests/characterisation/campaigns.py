"""The characterised campaigns: ready-made specs, reduced by ``--set``, and the two ways to run them.

Everything goes through the command line, so that no module path of the testbed is named but that of its entry point.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODEL = Path(__file__).with_name("digits")
"""A trained model, so that no training stands before the rows: `testbed train digits --dataset digits --seed 42`."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

Testbed = Callable[[Sequence[str]], str]
"""Runs one command line (without the program's name) and returns its standard output. Raises RuntimeError if it fails."""

_FEW = ("tiers.images=[4,4,4,4]", "engine.batch=16", "gates.zero_fault_rows=64")


@dataclass(frozen=True)
class Campaign:
    """``spec``: a file of campaigns/; ``changes``: what ``--set`` is given. ``adaptive``: later rounds follow from rows.
    ``kernel``: what `testbed doctor` must list as available, as the spec asks for it."""

    spec: str
    changes: tuple[str, ...]
    adaptive: bool = False
    kernel: str | None = None

    def run(self, testbed: Testbed, folder: Path) -> None:
        """Run the campaign in this process or the command's own, from nothing to its summary."""
        changes = (f"model={{run={json.dumps(str(MODEL))}}}", *_FEW, *self.changes)
        command = ["campaign", "run", str(ROOT / "campaigns" / self.spec), "--run", str(folder), "--workers", "0"]
        testbed([*command, *(word for change in changes for word in ("--set", change))])


CAMPAIGNS = {
    "digits": Campaign(
        "digits.toml",
        (
            "faults[0].per_stratum=1",
            "faults[0].bits=[3, 22, 30, 31]",
            "faults[1].per_stratum=1",
            "faults[2].bits=[5, 30]",
            "faults[3].per_stratum=1",
            "faults[3].bits=[3, 22, 30]",
            "faults[4].per_stratum=1",
            "faults[4].bits=[3, 30]",
        ),
    ),
    "digits-adaptive": Campaign("digits-adaptive.toml", ("stop.margin=0.03",), adaptive=True),
    "fault-models": Campaign(
        "fault-models.toml",
        (
            "faults[0].per_stratum=1",
            "faults[1].bits=[1, 23, 30, 31]",
            "faults[2].per_stratum=2",
            "faults[3].per_stratum=2",
            "faults[4].per_stratum=2",
            "faults[5].per_stratum=2",
            "faults[7].per_stratum=32",
        ),
        kernel="onnxruntime op",
    ),
    "int8": Campaign(
        "digits.toml",
        (
            "engine.precision=int8",
            'faults=[{target="model", where="activation", sites=["block.0.attn.*", "*.mlp.gelu*", "head*"],'
            ' ops=["flip", "random"]},'
            ' {target="model", where="weight", sites=["block.1.attn.*", "*.mlp.fc1.weight*"], bits=[0, 3, 6, 7]}]',
        ),
    ),
    "openvino": Campaign(
        "digits.toml",
        (
            "engine.backend=openvino",
            "detector=nonfinite",
            'faults=[{target="model", where="activation", sites=["block.0.attn.*", "*.mlp.gelu", "head"],'
            ' ops=["flip", "random"], bits=[3, 22, 27, 30, 31]},'
            ' {target="model", where="weight", sites=["block.1.attn.*", "*.mlp.fc1.weight"], bits=[22, 30]}]',
        ),
    ),
}


def in_this_process(arguments: Sequence[str]) -> str:
    """The testbed of this process: quick, as its libraries are imported once."""
    from click.testing import CliRunner

    from testbed.cli.main import cli

    done = CliRunner().invoke(cli, list(arguments), prog_name="testbed")
    if done.exit_code != 0:
        raise RuntimeError(f"testbed {' '.join(arguments)}: exit status {done.exit_code}\n{done.output}")
    return done.stdout


def testbed_of(python: str) -> Testbed:
    """The testbed that is installed for another interpreter, a process per command."""

    def run(arguments: Sequence[str]) -> str:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | ONE_THREAD
        with (
            tempfile.TemporaryDirectory() as elsewhere
        ):  # `-m` would take the current folder's testbed before the installed
            command = [python, "-m", "testbed", *arguments]
            done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr}")
        return done.stdout

    return run
