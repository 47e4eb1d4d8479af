"""The manifest's form and checksums: what was edited by hand or damaged is refused, and what stands is told from it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.files import write_text
from testbed.core.folder.manifest import MANIFEST
from testbed.core.folder.runfolder import RunFolder

ORDER = ["first", "second", "third"]
Edit = Callable[[dict[str, Any]], Any]


def begun(path: Path, kind: str = "campaign", *, redo: bool = False) -> RunFolder:
    return RunFolder.claimed(path, kind, "demo", 1, ["testbed"], redo=redo)


def run(folder: RunFolder) -> list[str]:
    """The stages that were built."""
    built: list[str] = []
    for name in ORDER:

        def build(name: str = name) -> dict[str, Any]:
            built.append(name)
            write_text(folder / f"{name}.txt", name)
            return {"made": [1, 2.5, None, "é"]}

        folder.stage(name, {"of": name}, [f"{name}.txt"], build)
    return built


@pytest.fixture
def made(tmp_path: Path) -> Path:
    run(begun(tmp_path))
    return tmp_path


def edited(path: Path, edit: Edit) -> Path:
    manifest = json.loads((path / MANIFEST).read_text())
    edit(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))
    return path


def unsigned(manifest: dict[str, Any]) -> None:
    """As versions before checksums wrote it."""
    del manifest["format"], manifest["checksums"]


def second(manifest: dict[str, Any]) -> dict[str, Any]:
    record: dict[str, Any] = manifest["stages"]["second"]
    return record


def test_checksums_are_those_of_the_content(made: Path) -> None:
    """By another way than the code's: SHA-256 of the sorted, spaceless JSON, whatever layout the file has."""
    manifest = json.loads((made / MANIFEST).read_text())
    head = {key: value for key, value in manifest.items() if key not in ("stages", "checksums")}

    def of(value: Any) -> str:
        return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    assert manifest["checksums"]["head"] == of(head)
    assert manifest["checksums"]["stages"] == {name: of([name, manifest["stages"][name]]) for name in ORDER}


def test_another_layout_of_the_same_content_is_the_same_manifest(made: Path) -> None:
    edited(made, lambda manifest: None)
    assert run(begun(made)) == []


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda m: m.pop("stages"), "stages is missing"),
        (lambda m: m.update(stages=[]), "stages: "),
        (lambda m: m.update(argv="testbed"), "argv: input should be a valid list"),
        (lambda m: m["host"].update(cores=[[]]), r"host\.cores"),
        (lambda m: m.update(created="2001-01-01T00:00:00+00:00"), "its checksum is of another content"),
        (lambda m: m.update(junk={"a": 1}), "its checksum is of another content"),
        (lambda m: m.pop("format"), "its checksum is of another content"),
        (lambda m: m["checksums"].update(head="0" * 64), "its checksum is of another content"),
        (lambda m: m.pop("checksums"), "its checksum is missing"),
        (lambda m: m.update(checksums=None), "its checksum is missing"),
    ],
)
def test_a_head_that_is_not_as_it_was_written_is_refused(made: Path, edit: Edit, told: str) -> None:
    edited(made, edit)
    for look in (RunFolder.existing, begun):
        with pytest.raises(StaleArtefact, match=rf"manifest\.json was edited or damaged \({told}.*another folder$"):
            look(made)


@pytest.mark.parametrize("before", [lambda m: None, unsigned])
@pytest.mark.parametrize("edit", [{"identity": "0" * 64}, {"spec": {"seed": 2}}, {"spec": None}])
def test_another_spec_than_the_one_that_was_begun_is_refused(made: Path, edit: dict[str, Any], before: Edit) -> None:
    edited(made, before)
    edited(made, lambda m: m.update(edit))
    for look in (RunFolder.existing, begun):
        with pytest.raises(StaleArtefact, match=r"the spec in .*manifest\.json was edited; .*another folder$"):
            look(made)


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m["stages"].update(second="done"),
        lambda m: m["stages"].update(second=None),
        lambda m: second(m).pop("outputs"),
        lambda m: second(m).update(outputs=["second.txt"]),
        lambda m: second(m)["outputs"].update({"second.txt": 7}),
        lambda m: second(m)["outputs"].update({"../other.txt": "0" * 64}),
        lambda m: second(m).update(facts=None),
        lambda m: second(m)["facts"].update(made=[1, 2.5, None, "e"]),
        lambda m: second(m).update(seconds=-1),
        lambda m: second(m).update(seconds=1e300),
        lambda m: second(m).update(seconds="1"),
        lambda m: second(m).update(seconds=second(m)["seconds"] + 1),
        lambda m: second(m).update(command="rm -rf"),
        lambda m: second(m)["inputs"].update(junk=[{}]),
        lambda m: m["stages"].pop("second"),
        lambda m: m["checksums"]["stages"].pop("second"),
        lambda m: m["checksums"]["stages"].update(second=[1]),
    ],
)
def test_an_edited_stage_is_named_and_made_again_while_the_others_stand(made: Path, edit: Edit) -> None:
    edited(made, edit)
    for look in (RunFolder.existing, begun):
        with pytest.raises(
            StaleArtefact,
            match=r"stage 'second' was edited or damaged \(.*rerun it with `testbed campaign run SPEC --run .* --redo second`$",
        ):
            look(made)
    folder = begun(made, redo=True)
    folder.redo("second", ORDER)
    assert run(folder) == ["second", "third"]
    assert run(begun(made)) == []


def test_redo_of_a_later_stage_does_not_cover_a_damaged_one(made: Path) -> None:
    edited(made, lambda m: second(m).update(seconds=-1))
    with pytest.raises(StaleArtefact, match="--redo second"):
        begun(made, redo=True).redo("third", ORDER)


def test_a_damaged_stage_that_is_none_of_the_order_is_forgotten_alone(made: Path) -> None:
    edited(made, lambda m: m["stages"].update(side={"junk": 1}))
    with pytest.raises(StaleArtefact, match=r"'side' was edited or damaged \(inputs is missing\); .*--redo side"):
        begun(made)
    folder = begun(made, redo=True)
    with pytest.raises(UsageError, match="unknown stage 'other'"):
        folder.redo("other", ORDER)
    folder.redo("side", ORDER)
    assert run(folder) == []


def test_a_stage_that_a_command_makes_counts_as_not_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = begun(tmp_path, "model")
    run(folder)
    folder.stage("golden", {}, [], lambda: {"images": 3}, command="testbed golden")
    edited(tmp_path, lambda m: m["stages"]["golden"]["facts"].update(images=4))
    with caplog.at_level(logging.WARNING):
        found = RunFolder.existing(tmp_path)
    assert "golden" not in found.manifest["stages"]
    assert f"run `testbed golden {tmp_path}` again" in caplog.text
    assert found.stage("golden", {}, [], lambda: {"images": 3}, command="testbed golden") == {"images": 3}
    caplog.clear()
    assert RunFolder.existing(tmp_path).manifest["stages"]["golden"]["facts"] == {"images": 3}
    assert not caplog.text


def test_a_model_whose_own_stage_was_edited_begins_in_another_folder(tmp_path: Path) -> None:
    run(begun(tmp_path, "model"))
    edited(tmp_path, lambda m: second(m).update(seconds=-1))
    with pytest.raises(StaleArtefact, match=r"'second' was edited or damaged .*start again in another folder$"):
        RunFolder.existing(tmp_path)


def test_a_manifest_without_checksums_is_read_and_gets_them(made: Path) -> None:
    edited(made, unsigned)
    folder = begun(made)
    assert run(folder) == []
    folder.save()
    edited(made, lambda m: second(m)["facts"].clear())
    with pytest.raises(StaleArtefact, match="--redo second"):
        begun(made)


def test_a_manifest_without_checksums_is_held_to_its_form(made: Path) -> None:
    edited(made, unsigned)
    edited(made, lambda m: second(m).update(seconds=-1))
    with pytest.raises(StaleArtefact, match=r"\(seconds: input should be greater than or equal to 0\).*--redo second"):
        begun(made)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 300 + "1" + "}" * 300, "9" * 5000, "NaN", '{"a": 1e999}'])
def test_json_that_cannot_be_worked_with_is_damage(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(StaleArtefact, match=r"manifest\.json is damaged \(.*another folder$"):
        RunFolder.existing(tmp_path)


def test_a_hash_that_no_stage_recorded_is_told(made: Path) -> None:
    folder = begun(made)
    with pytest.raises(StaleArtefact, match=r"records no third\.txt of stage 'second'; .*--redo second"):
        folder.output_hash("second", "third.txt")
    with pytest.raises(StaleArtefact, match="has no 'fourth' stage yet"):
        folder.output_hash("fourth", "third.txt")
