"""Campaigns to compare with the tiny one: on another engine, and in another precision."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from tests.support.finished import finished


@pytest.fixture(scope="session")
def torch_run(tiny_run: Path, shared_folder: Path) -> Path:
    """The tiny campaign's faults in another engine."""
    values = copy.deepcopy(json.loads((tiny_run / "manifest.json").read_text())["spec"])
    values["engine"]["backend"] = "torch"
    values["gates"] |= {"parity_max_abs": 1.0, "drift_max_abs": 1.0}
    return finished(shared_folder / "runs" / "torch", values)


@pytest.fixture(scope="session")
def fp16_run(tiny_run: Path, shared_folder: Path) -> Path:
    """The tiny campaign in half precision, all bits of activations."""
    values = copy.deepcopy(json.loads((tiny_run / "manifest.json").read_text())["spec"])
    values["engine"]["precision"] = "fp16"
    values["gates"] |= {"parity_max_abs": 1.0, "drift_max_abs": 1.0}
    for section, bits in zip(values["faults"], ("all", [3, 14, 15], [0, 14], [14]), strict=True):
        section |= {"bits": bits, "per_stratum": min(section["per_stratum"], 12)}
    return finished(shared_folder / "runs" / "fp16", values)
