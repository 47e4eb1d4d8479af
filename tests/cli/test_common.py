from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table

from testbed.cli.common import emit
from testbed.core.json_types import json_ready


class Colour(StrEnum):
    RED = "red"


@dataclass
class Nested:
    path: Path
    values: dict[int, float]


def test_json_ready_speaks_only_json() -> None:
    value = Nested(Path("a/b"), {1: float("nan"), 2: float("-inf"), 3: 0.5})
    mixed = {
        "nested": value,
        "array": np.array([1, np.inf], np.float32),
        "scalar": np.int64(3),
        "tuple": (Colour.RED, None, True),
    }
    assert json.loads(json.dumps(json_ready(mixed), allow_nan=False)) == {
        "nested": {"path": "a/b", "values": {"1": None, "2": None, "3": 0.5}},
        "array": [1.0, None],
        "scalar": 3,
        "tuple": ["red", None, True],
    }


def test_a_record_says_itself_how_it_is_json() -> None:
    @dataclass(frozen=True)
    class Flattened:
        inner: dict[str, float]

        def to_json(self) -> dict[str, float]:
            return {"outer": 1.0, **self.inner}

    assert json_ready([Flattened({"x": float("inf")})]) == [{"outer": 1.0, "x": None}]


def test_emit_prints_one_json_object_or_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"rows": 2}, as_json=True, text=lambda: pytest.fail("text made although JSON was asked for"))
    assert json.loads(capsys.readouterr().out) == {"rows": 2}
    emit({"rows": 2}, as_json=False, text=lambda: "[bold] two rows")
    assert capsys.readouterr().out == "[bold] two rows\n"
    table = Table("heading")
    table.add_row("x" * 100)
    emit({}, as_json=False, text=lambda: table)
    captured = capsys.readouterr()
    assert "x" * 100 in captured.out  # piped output is wide enough for tables
    assert captured.err == ""
