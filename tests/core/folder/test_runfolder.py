"""The run folder: stages that are skipped, redone or refused by name, and folders that belong to something else."""

from __future__ import annotations

import errno
import getpass
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.core.errors import StaleArtefact, TestbedError, UsageError
from testbed.core.folder.files import write_text
from testbed.core.folder.manifest import MANIFEST
from testbed.core.folder.runfolder import RunFolder
from tests.support.disks import failing

ORDER = ["first", "second", "third"]


def claimed(path: Path, identity: Any = 1) -> RunFolder:
    return RunFolder.claimed(path, "campaign", "demo", identity, ["testbed"])


class Stages:
    """Three stages, each writing one file; counts how often each was built."""

    def __init__(self, path: Path) -> None:
        self.folder = claimed(path)
        self.built: list[str] = []

    def run(self, inputs: Any = 0, upto: str = "third") -> list[str]:
        self.built.clear()
        for name in ORDER[: ORDER.index(upto) + 1]:
            self.folder.stage(name, {"input": inputs, "of": name}, [f"{name}.txt"], self._builder(name))
        return list(self.built)

    def _builder(self, name: str) -> Callable[[], dict[str, Any]]:
        def build() -> dict[str, Any]:
            self.built.append(name)
            (self.folder / f"{name}.txt").write_text(f"made by {name}")
            return {"fact": name}

        return build


@pytest.fixture
def stages(tmp_path: Path) -> Stages:
    found = Stages(tmp_path / "run")
    with found.folder.locked():
        assert found.run() == ORDER
    return found


def again(stages: Stages) -> Stages:
    """As another process would see the folder."""
    return Stages(stages.folder.path)


def test_a_stage_with_the_same_inputs_is_skipped_and_keeps_its_facts(stages: Stages) -> None:
    later = again(stages)
    assert later.run() == []
    assert later.folder.stage("first", {"input": 0, "of": "first"}, ["first.txt"], dict) == {"fact": "first"}


def test_inputs_are_the_same_whether_tuples_or_lists(tmp_path: Path) -> None:
    folder = claimed(tmp_path)
    folder.stage("first", {"edges": (1, 2)}, [], dict)
    assert folder.stage("first", {"edges": (1, 2)}, [], dict) == {}
    assert claimed(tmp_path).stage("first", {"edges": [1, 2]}, [], dict) == {}


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda file: file.write_text("made by somebody"), "was edited or truncated since stage 'second' wrote it"),
        (lambda file: file.write_text(""), "was edited or truncated since stage 'second' wrote it"),
        (lambda file: file.unlink(), "is missing"),
    ],
    ids=["edited", "truncated", "missing"],
)
def test_a_damaged_output_is_refused_naming_the_file_and_the_stage(
    stages: Stages, damage: Callable[[Path], Any], told: str
) -> None:
    damage(stages.folder / "second.txt")
    with pytest.raises(StaleArtefact, match=rf"second\.txt {told}.*--redo second") as caught:
        again(stages).run()
    assert caught.value.exit_code == 1


def test_changed_inputs_are_refused_by_name(stages: Stages) -> None:
    with pytest.raises(StaleArtefact, match=r"stage 'first' was made from another input; .*--redo first"):
        again(stages).run(inputs=1)


def test_redo_builds_the_stage_and_all_later_ones(stages: Stages) -> None:
    later = again(stages)
    later.folder.redo("second", ORDER)
    assert later.run() == ["second", "third"]
    assert again(stages).run() == []


def test_redo_repairs_a_damaged_output(stages: Stages) -> None:
    (stages.folder / "second.txt").write_text("")
    later = again(stages)
    later.folder.redo("second", ORDER)
    later.run()
    assert (stages.folder / "second.txt").read_text() == "made by second"


def test_redo_of_an_unknown_stage_names_the_known_ones(stages: Stages) -> None:
    with pytest.raises(UsageError, match="unknown stage 'last'; known: first, second, third"):
        stages.folder.redo("last", ORDER)


def test_a_stage_that_fails_is_not_recorded_and_earlier_ones_are(tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    stages.run(upto="first")

    def build() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        stages.folder.stage("second", {}, ["second.txt"], build)
    assert Stages(tmp_path).run() == ["second", "third"]


def test_verify_refuses_a_stage_that_has_not_run(tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    stages.run(upto="first")
    stages.folder.verify("first")
    with pytest.raises(StaleArtefact, match="has no 'second' stage yet"):
        stages.folder.verify("second")


def test_another_campaigns_folder_is_refused_untouched(stages: Stages) -> None:
    before = (stages.folder / MANIFEST).read_bytes()
    with pytest.raises(UsageError, match=r"holds another run \(campaign 'demo'.*choose another folder with --run"):
        claimed(stages.folder.path, identity=2)
    assert (stages.folder / MANIFEST).read_bytes() == before


def test_a_foreign_folder_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="is not empty and holds no run"):
        claimed(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        claimed(tmp_path / "file")


def test_nothing_is_written_before_the_folder_is_locked(tmp_path: Path) -> None:
    claimed(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '"text"', '{"schema_version": 0}', "\xff"])
def test_a_damaged_manifest_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(StaleArtefact, match=MANIFEST):
        claimed(tmp_path)


def test_a_manifest_that_is_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(
        StaleArtefact, match=r"manifest\.json cannot be read \(Is a directory\); start again in another"
    ):
        claimed(tmp_path)


def test_a_folder_without_a_run_cannot_be_looked_at(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        RunFolder.existing(tmp_path)


def test_a_start_that_was_killed_before_its_manifest_can_be_begun_again(tmp_path: Path) -> None:
    with claimed(tmp_path / "run").locked():
        (tmp_path / "run" / f".{MANIFEST}.x1y2z3.unfinished.json").write_text("{")
    with claimed(tmp_path / "run").locked():
        pass


def test_a_full_disk_at_the_start_can_be_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", full)
        folder = claimed(tmp_path / "run")
        with folder.locked(), pytest.raises(TestbedError, match="the disk is full"):
            folder.save()
    folder = claimed(tmp_path / "run")
    with folder.locked():
        folder.save()
    assert json.loads((tmp_path / "run" / MANIFEST).read_text())["name"] == "demo"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_takes_no_files_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(Path, "mkdir", failing(number))
    with pytest.raises(TestbedError, match="choose another folder"), claimed(tmp_path / "run").locked():
        pass


HOLDER = """
import sys, time
from pathlib import Path
from testbed.core.folder.runfolder import RunFolder
folder = RunFolder.claimed(Path(sys.argv[1]), "campaign", "demo", 1, [])
with folder.locked():
    folder.save()
    print("held", flush=True)
    sys.stdin.read()
"""


def test_another_processes_folder_is_refused_until_it_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TestbedError, match="another process is working in"), claimed(tmp_path / "run").locked():
            pass
        holder.kill()  # even a killed process leaves no lock behind
    with claimed(tmp_path / "run").locked():
        pass


def test_what_another_process_did_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    mine = claimed(tmp_path)
    theirs = Stages(tmp_path)
    with theirs.folder.locked():
        theirs.run()
    with pytest.raises(TestbedError, match="run the same command again"), mine.locked():
        pass


def test_a_new_folder_in_which_nothing_was_written_is_not_left(tmp_path: Path) -> None:
    with pytest.raises(UsageError), claimed(tmp_path / "deep" / "new").locked():
        raise UsageError("no such thing")
    assert not (tmp_path / "deep").exists()
    (tmp_path / "old").mkdir()
    with pytest.raises(UsageError), claimed(tmp_path / "old" / "new").locked():
        raise UsageError("no such thing")
    with pytest.raises(UsageError), claimed(tmp_path / "old").locked():
        raise UsageError("no such thing")
    assert (tmp_path / "old").is_dir()  # somebody else's
    assert not list((tmp_path / "old").iterdir())
    with claimed(tmp_path / "kept").locked():
        (tmp_path / "kept" / "file.txt").touch()
    assert (tmp_path / "kept" / "file.txt").is_file()


def test_a_folder_that_could_be_written_but_not_read_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(UsageError, match="UTF-8 paths only; choose another folder"):
        claimed(path)
    assert not path.exists()


def test_names_of_the_machine_and_the_user_are_recorded_only_where_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {platform.node(), getpass.getuser()}
    assert not names & set(map(str, claimed(tmp_path / "one").manifest["host"].values()))
    monkeypatch.setenv("TESTBED_RECORD_HOST", "1")
    assert names <= set(map(str, claimed(tmp_path / "two").manifest["host"].values()))


def test_the_manifest_says_what_ran_where(stages: Stages) -> None:
    manifest = json.loads((stages.folder / MANIFEST).read_text())
    assert manifest["argv"] == ["testbed"]
    assert manifest["host"]["cores"] >= 1
    assert "numpy" in manifest["versions"]
    assert list(manifest["stages"]) == ORDER
    assert set(manifest["stages"]["first"]) == {"inputs", "outputs", "facts", "seconds"}


@pytest.mark.parametrize(
    ("kind", "stage", "told"),
    [
        ("campaign", "plan", "rerun it with `testbed campaign run SPEC --run {path} --redo plan`"),
        ("model", "train", "rerun it with `testbed train ... --run {path} --redo train`"),
        ("model", "import", "start again in another folder"),
    ],
)
def test_how_a_stage_is_made_again_names_the_command_that_has_the_option(
    tmp_path: Path, kind: str, stage: str, told: str
) -> None:
    folder = RunFolder.claimed(tmp_path / "run", kind, "demo", 1, ["testbed"])
    with folder.locked():
        folder.stage(stage, {"of": 1}, ["file.txt"], lambda: write_text(folder / "file.txt", "whole"))
    (folder / "file.txt").write_text("half")
    with pytest.raises(StaleArtefact, match=re.escape(told.format(path=folder.path))):
        folder.verify(stage)
