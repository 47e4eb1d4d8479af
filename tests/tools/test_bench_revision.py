"""The comparison of two revisions, on testbeds that only say how fast they were."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bench_revision
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

# Stands for an interpreter with a testbed: notes how it was called, writes rows, and prints a summary.
FAKE = """#!{python}
import json, pathlib, sys
arguments = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps([{name!r}, *arguments]) + "\\n")
folder = pathlib.Path(arguments[arguments.index("--run") + 1])
folder.mkdir(exist_ok=True)
(folder / "results.parquet").write_bytes(pathlib.Path({rows!r}).read_bytes())
print(json.dumps({{"injections_per_second": {rate}, "wall_seconds": 3.0, "engine_seconds": 2.0}}))
"""


def write_rows(path: Path, last: int = 0x7FC00000) -> Path:
    words = np.array([0x7FC00001, 0x3F800000, last], np.uint32)  # NaNs equal themselves bit for bit
    outcome = pa.array(["masked", None, "due"]).dictionary_encode()
    logits = pa.array([[1.0, 2.0], None, []], pa.list_(pa.float32()))
    hashes = pa.array([path.stem] * 3)
    pq.write_table(
        pa.table({"faulty": words.view(np.float32), "outcome": outcome, "logits": logits, "engine_hash": hashes}), path
    )
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def fake_testbed(folder: Path, log: Path, rate: float, rows: Path) -> Path:
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    text = FAKE.format(python=sys.executable, log=str(log), name=folder.name, rate=rate, rows=str(rows))
    python.write_text(text)
    python.chmod(0o755)
    return python


def run_tool(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["bench_revision.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        bench_revision.main()
    return int(ended.value.code or 0)


def test_runs_take_turns_and_the_ratio_is_this_checkout_over_the_reference(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "rows.parquet")
    fake_testbed(tmp_path / "before", log, 200.0, rows)
    here = fake_testbed(tmp_path / "after", log, 300.0, rows)
    options = ["--here", here, "--repeats", 2, "--set", "seed=3", "--json"]
    assert run_tool(monkeypatch, tmp_path / "before", *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["measured"]["injections_per_second"]["reference"] == [200.0, 200.0]
    assert found["measured"]["injections_per_second"]["ratio"] == {
        "of_medians": 1.5,
        "min": 1.5,
        "median": 1.5,
        "max": 1.5,
    }
    assert found["measured"]["wall_over_engine"]["here"] == [1.5, 1.5]
    assert found["differing_columns"] == []
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    assert [name for name, *_ in calls] == ["before", "after", "after", "before", "before", "after"]
    assert [("--redo" in call, "seed=3" in call) for call in calls] == [(False, True)] * 2 + [(True, True)] * 4


def test_other_rows_are_told_and_fail(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_testbed(tmp_path / "before", log, 200.0, write_rows(tmp_path / "a.parquet"))
    here = fake_testbed(tmp_path / "after", log, 200.0, write_rows(tmp_path / "b.parquet", last=0x7FC00002))
    assert run_tool(monkeypatch, tmp_path / "before", "--here", here, "--repeats", 1) == 1
    assert "rows: not the same in faulty" in capsys.readouterr().out  # engine_hash differs too, and does not count


def test_a_folder_without_an_environment_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_revision.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="make the checkout's environment first"):
        bench_revision.main()
