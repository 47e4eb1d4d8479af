"""Entries of the cache: taken as they were kept or not at all, told where they are damaged, safe among processes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.campaign.reuse.entries import RECORD
from testbed.campaign.reuse.reuse import NO_REUSE, Reuse
from testbed.core.errors import UsageError
from testbed.core.folder.cache import LIMIT, clear, usage
from testbed.core.folder.files import sha256_json

MADE_FROM = {"model": "abc", "precision": "fp32"}


class Stage:
    """A stage that writes two files, and counts how often it is made."""

    def __init__(self, folder: Path, content: bytes = b"content") -> None:
        self.folder, self.content, self.made = folder, content, 0

    def build(self) -> dict[str, Any]:
        self.made += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "a.onnx").write_bytes(self.content)
        (self.folder / "a.json").write_bytes(b"[]")
        return {"batch": 4}

    def run(self, reuse: Reuse, made_from: dict[str, Any] | None = None) -> dict[str, Any]:
        """The facts that are reported."""
        self.folder.mkdir(parents=True, exist_ok=True)
        build = reuse.stage("export", self.folder, made_from or MADE_FROM, ["a.onnx", "a.json"], self.build)
        facts = build()
        assert (self.folder / "a.onnx").read_bytes() == self.content
        return dict(facts or {})


@pytest.fixture
def reuse(tmp_path: Path) -> Reuse:
    return Reuse(tmp_path / "cache")


@pytest.fixture
def entry(tmp_path: Path, reuse: Reuse) -> Path:
    """The folder of an entry that was kept."""
    assert Stage(tmp_path / "first").run(reuse) == {"batch": 4}
    (path,) = (tmp_path / "cache" / "prepared").iterdir()
    return path


def test_a_second_run_takes_files_and_facts_and_says_from_when(tmp_path: Path, reuse: Reuse, entry: Path) -> None:
    second = Stage(tmp_path / "second")
    facts = second.run(reuse)
    assert second.made == 0
    assert facts["batch"] == 4
    assert facts["cache"]["key"] == entry.name
    assert facts["cache"]["made"].startswith("20")
    assert facts["cache"]["versions"]["testbed"]
    assert (tmp_path / "second" / "a.json").read_bytes() == b"[]"
    assert not (tmp_path / "second" / "a.onnx").samefile(entry / "a.onnx")


def test_nothing_is_kept_or_taken_without_a_named_folder(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "run")
    assert stage.run(NO_REUSE) == stage.run(NO_REUSE) == {"batch": 4}
    assert stage.made == 2
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize("other", [{"model": "abd", "precision": "fp32"}, {**MADE_FROM, "seed": 1}])
def test_other_inputs_are_another_entry(tmp_path: Path, reuse: Reuse, entry: Path, other: dict[str, Any]) -> None:
    stage = Stage(tmp_path / "second", b"other")
    stage.run(reuse, other)
    assert stage.made == 1
    assert len(list(entry.parent.iterdir())) == 2


def truncate(entry: Path) -> None:
    (entry / "a.onnx").write_bytes(b"conten")


def edit(entry: Path) -> None:
    (entry / "a.onnx").write_bytes(b"contend")


def lose(entry: Path) -> None:
    (entry / "a.json").unlink()


def edit_facts(entry: Path) -> None:
    record = json.loads((entry / RECORD).read_text())
    record["facts"]["batch"] = 8
    (entry / RECORD).write_text(json.dumps(record))


def no_json(entry: Path) -> None:
    (entry / RECORD).write_text('{"format": 1, "stage"')


def no_record(entry: Path) -> None:
    (entry / RECORD).write_text("[]")


def lose_record(entry: Path) -> None:
    (entry / RECORD).unlink()


def of_a_later_version(entry: Path) -> None:
    record = json.loads((entry / RECORD).read_text())
    (entry / RECORD).write_text(json.dumps({**record, "format": 2}))


def of_another_model(entry: Path) -> None:
    """A record that is whole, with a checksum that is right, of something else: renamed by hand."""
    record = json.loads((entry / RECORD).read_text())
    record["made_from"]["model"] = "xyz"
    record.pop("checksum")
    (entry / RECORD).write_text(json.dumps({**record, "checksum": sha256_json(record)}))


DAMAGES = {
    truncate: "a.onnx was edited or truncated",
    edit: "a.onnx was edited or truncated",
    lose: "a.json cannot be read",
    edit_facts: "its record was edited or damaged",
    no_json: "entry.json is damaged",
    no_record: "entry.json is not a record",
    lose_record: "entry.json cannot be read",
    of_a_later_version: "entry.json is not a record (format",
    of_another_model: "it was made from something else",
}


@pytest.mark.parametrize(("damage", "why"), DAMAGES.items())
def test_a_damaged_entry_is_told_in_one_line_and_made_again(
    tmp_path: Path,
    reuse: Reuse,
    entry: Path,
    damage: Callable[[Path], None],
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(entry)
    second, third = Stage(tmp_path / "second"), Stage(tmp_path / "third")
    with caplog.at_level(logging.WARNING):
        assert second.run(reuse) == {"batch": 4}
    assert second.made == 1
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith(f"cache: {entry} is not used, since {why}")
    assert line.endswith("export is made again")
    assert "\n" not in line
    assert third.run(reuse)["batch"] == 4
    assert third.made == 0


def test_a_stage_that_is_made_anew_replaces_what_the_cache_holds(tmp_path: Path, reuse: Reuse, entry: Path) -> None:
    again = Stage(tmp_path / "second", b"better")
    assert again.run(Reuse(reuse.cache, frozenset({"export"}))) == {"batch": 4}
    assert again.made == 1
    assert (entry / "a.onnx").read_bytes() == b"better"
    part = Stage(tmp_path / "third", b"better")
    part.run(Reuse(reuse.cache, frozenset({"exp"})))  # another stage, of a similar name
    assert part.made == 0


def test_a_cache_that_cannot_be_written_costs_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "prepared").write_text("a file")
    with caplog.at_level(logging.WARNING):
        assert Stage(tmp_path / "run").run(Reuse(tmp_path / "cache")) == {"batch": 4}
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("cache: export is not kept: cannot write")


def test_a_file_is_no_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file; name a folder for the cache"):
        Reuse.named(tmp_path / "file", "ort-cpu")
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "mine"))
    assert Reuse.named(None, "ort-cpu").cache == tmp_path / "mine"
    assert Reuse.named(tmp_path / "asked", "ort-cpu").cache == tmp_path / "asked"
    monkeypatch.delenv("TESTBED_CACHE")
    assert Reuse.named(None, "ort-cpu") == Reuse(None, backend="ort-cpu")


def test_entries_are_counted_bounded_and_cleared(
    tmp_path: Path, reuse: Reuse, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {use.kind: use for use in usage(reuse.cache)}["prepared"]
    assert held.files == 1
    assert held.bytes == sum(file.stat().st_size for file in entry.iterdir())
    os.utime(entry, (1, 1))
    Stage(tmp_path / "second").run(reuse, {"model": "other"})
    assert {use.kind: use.files for use in clear(folder=reuse.cache, unused_seconds=3600)}["prepared"] == 1
    assert not entry.exists()
    Stage(tmp_path / "third").run(reuse)
    os.utime(entry, (1, 1))
    monkeypatch.setenv(LIMIT, str(2.5 * held.bytes / 2**30))
    Stage(tmp_path / "fourth").run(reuse, {"model": "third"})  # what was used longest ago goes
    assert not entry.exists()
    assert {use.kind: use.files for use in usage(reuse.cache)}["prepared"] == 2
    clear(folder=reuse.cache)
    assert list((tmp_path / "cache" / "prepared").iterdir()) == []


def test_processes_keep_take_and_remove_the_same_entries_at_once(tmp_path: Path) -> None:
    """What is taken is whole, whoever is writing or removing it."""
    code = (
        "import sys; from pathlib import Path; from testbed.campaign.reuse.reuse import Reuse;"
        "from testbed.core.folder.cache import clear\n"
        "cache, here = Path(sys.argv[1]), Path(sys.argv[2]); here.mkdir(); reuse = Reuse(cache); taken = 0\n"
        "def build():\n"
        "    (here / 'a').write_bytes(bytes(range(256)) * 999); (here / 'b').write_bytes(b'b' * 99_999); return {'n': 1}\n"
        "for n in range(60):\n"
        "    facts = reuse.stage('export', here, {'n': n % 3}, ['a', 'b'], build)()\n"
        "    taken += 'cache' in facts\n"
        "    assert (here / 'a').read_bytes() == bytes(range(256)) * 999 and facts['n'] == 1\n"
        "    assert (here / 'b').read_bytes() == b'b' * 99_999\n"
        "    if n % 20 == 19: clear(folder=cache)\n"
        "assert taken\n"
    )
    names = ("a", "b")
    running = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "cache", tmp_path / name]) for name in names]
    assert [process.wait(120) for process in running] == [0, 0]
    assert all(not path.name.startswith(".") for path in (tmp_path / "cache" / "prepared").iterdir())
