"""What the same inputs may give other bits by, beside themselves: each of it is another key."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from testbed.campaign.reuse import made_by as module
from testbed.campaign.reuse.made_by import ROOT, SOURCES, machine, made_by, sources_digest


def test_it_is_the_same_while_nothing_changes() -> None:
    assert made_by("ort-cpu") == made_by("ort-cpu")
    told = made_by("ort-cpu")
    assert told["versions"]["testbed"]
    assert told["versions"]["onnx"]
    assert told["machine"]["instructions"]


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE"])
def test_environment_variables_of_numerical_libraries_count(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    before = machine()
    monkeypatch.setenv(variable, "another")
    assert machine() != before


def test_other_environment_variables_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before = machine()
    monkeypatch.setenv("HOME", "/elsewhere")
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    assert machine() == before


@pytest.mark.parametrize(
    ("name", "other"), [("processor", lambda: "another CPU"), ("library_versions", lambda: {"onnxruntime": "0.1"})]
)
def test_processor_and_libraries_count(monkeypatch: pytest.MonkeyPatch, name: str, other: Any) -> None:
    before = made_by()
    monkeypatch.setattr(module, name, other)
    assert made_by() != before


@pytest.mark.parametrize("changed", ["campaign/evaluate/suffix/gate.py", "engines/runner.py", "semantics.py"])
def test_a_changed_source_counts(tmp_path: Path, changed: str) -> None:
    for part in SOURCES:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    as_it_is = sources_digest(tmp_path)
    assert as_it_is == sources_digest(ROOT)
    with (tmp_path / changed).open("a") as file:
        file.write("# another line\n")
    sources_digest.cache_clear()
    assert sources_digest(tmp_path) != as_it_is
