"""status.json in any state: what makes sense in it is told, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.api.progress_text import lines
from testbed.campaign.results.snapshot import RecordedSnapshot, Snapshot, Widest
from testbed.campaign.results.status_file import read_status

WHOLE = asdict(
    Snapshot(
        stage="execute",
        units=4,
        units_done=2,
        faults=100,
        faults_done=50,
        faults_per_second=12.5,
        eta_s=4.0,
        outcomes={"masked": 40, "sdc1": 20},
        widest=Widest("model weight", 57, 0.03),
        workers=2,
        updated="2026-01-01T00:00:00+00:00",
    )
)
EMPTY = asdict(RecordedSnapshot())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(sorted(WHOLE)), inner),
    max_leaves=8,
)


def read(tmp_path: Path, told: Any) -> RecordedSnapshot:
    (tmp_path / "status.json").write_text(json.dumps(told))
    return read_status(tmp_path / "status.json")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert asdict(read(tmp_path, WHOLE | {"pid": 7})) == WHOLE
    assert list(EMPTY) == list(WHOLE)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"faults": ' + b"9" * 5000 + b"}", b'{"eta_s": NaN}', None]
)
def test_a_damaged_one_is_none(tmp_path: Path, text: bytes | None) -> None:
    path = tmp_path / "status.json"
    path.mkdir() if text is None else path.write_bytes(text)
    assert read_status(path) == RecordedSnapshot() == read_status(tmp_path / "not there")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("units", -1),
        ("units", 10**16),
        ("units", "4"),
        ("units", True),
        ("faults", 49),  # fewer than are done
        ("faults_per_second", -1.0),
        ("faults_per_second", "fast"),
        ("eta_s", 1e300),
        ("outcomes", {"fine": 1}),
        ("outcomes", {"masked": -1}),
        ("outcomes", [1]),
        ("widest", {"group": 1}),
        ("widest", {**asdict(Widest("x", 1, 0.1)), "halfwidth": "wide"}),
        ("stage", ["execute"]),
        ("stage", "x" * 10_000),
        ("updated", "yesterday"),
        ("updated", 17),
    ],
)
def test_an_absurd_value_is_not_told(tmp_path: Path, name: str, value: Any) -> None:
    found = read(tmp_path, WHOLE | {name: value})
    values = asdict(found)
    assert values[name] == EMPTY[name]
    assert {key for key in WHOLE if values[key] != WHOLE[key]} <= {name, "faults_done"}
    lines(found)


@given(JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(WHOLE, JSON)))
def test_whatever_it_holds_can_be_shown(tmp_path_factory: pytest.TempPathFactory, told: Any) -> None:
    found = read(tmp_path_factory.getbasetemp(), told)
    assert all(isinstance(line, str) for line in lines(found))
