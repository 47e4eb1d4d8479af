"""Whatever happens to a file of a run folder, the campaign says so by the file's name, or ends with the same rows."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest

import testbed
from testbed.campaign.pipeline import run_campaign
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.core.errors import TestbedError
from tests.support.victims import assert_same_rows

Damage = Callable[[Path, random.Random], None]


def flipped(file: Path, dice: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    rewritten(file, bytes(content))


def truncated(file: Path, dice: random.Random) -> None:
    rewritten(file, file.read_bytes()[: dice.randrange(file.stat().st_size)])


def emptied(file: Path, dice: random.Random) -> None:
    rewritten(file, b"")


def deleted(file: Path, dice: random.Random) -> None:
    file.unlink()


def replaced_by_a_folder(file: Path, dice: random.Random) -> None:
    file.unlink()
    file.mkdir()


def replaced_by_itself_as_a_link(file: Path, dice: random.Random) -> None:
    file.unlink()
    file.symlink_to(file.name)


def rewritten(file: Path, content: bytes) -> None:
    file.unlink()
    file.write_bytes(content)


DAMAGES: list[Damage] = [flipped, truncated, emptied, deleted, replaced_by_a_folder, replaced_by_itself_as_a_link]


def files_of(run: Path) -> list[str]:
    return sorted(str(file.relative_to(run)) for file in run.rglob("*") if file.is_file() and file.name != ".lock")


def attack(whole: Path, folder: Path, name: str, damage: Damage, spec: CampaignSpec, dice: random.Random) -> str:
    """What came of it: "refused" in one line that names the file and, where a stage made it, the stage to redo; or "same",
    the rows of the whole one."""
    shutil.copytree(whole, folder)
    damage(folder / name, dice)
    told = f"{name} {damage.__name__}"
    try:
        run_campaign(spec, folder, worker_setup=WorkerSetup(0))
    except TestbedError as error:
        message = str(error)
        assert "\n" not in message, told
        if name == "manifest.json" and "holds no run" in message:  # which is what it is without one
            return "refused"
        assert Path(name).name in message, (told, message)
        assert any(way in message for way in ("--redo", "another folder", "start anew")), (told, message)
        return "refused"
    assert_same_rows(folder, whole)
    return "same"


def test_a_damaged_file_is_refused_by_name_or_harmless(tiny_run: Path, tiny_spec: CampaignSpec, tmp_path: Path) -> None:
    """Each file once; each damage several times."""
    dice, found = random.Random(0), {}
    for number, (name, damage) in enumerate(zip(files_of(tiny_run), cycle(DAMAGES), strict=False)):
        found[name] = attack(tiny_run, tmp_path / str(number), name, damage, tiny_spec, dice)
    assert len(found) > 12
    assert sum(end == "refused" for end in found.values()) > 9
    assert found["results.parquet"] == found["manifest.json"] == found["model.twin.onnx"] == "refused"


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_of_every_file(tiny_run: Path, tiny_spec: CampaignSpec, tmp_path: Path, damage: Damage) -> None:
    dice = random.Random(damage.__name__)
    ends = [
        attack(tiny_run, tmp_path / str(number), name, damage, tiny_spec, dice)
        for number, name in enumerate(files_of(tiny_run))
    ]
    assert ends.count("refused") > 9


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_looked_at_without_a_surprise(tiny_run: Path, tmp_path: Path, damage: Damage) -> None:
    """Reading rows and replaying a fault: right, or refused in one line."""
    dice = random.Random(damage.__name__)
    right = seen(tiny_run)
    for number, name in enumerate(files_of(tiny_run)):
        folder = tmp_path / str(number)
        shutil.copytree(tiny_run, folder)
        damage(folder / name, dice)
        found = seen(folder)
        assert found == right or (isinstance(found, str) and "\n" not in found), (name, damage.__name__)


def seen(folder: Path) -> object:
    """The stored outcomes and a fault that is run again, or what is said instead."""
    try:
        with testbed.open_run(folder) as run:
            rows = run.results
            return rows.outcome.tolist(), run.replay(int(rows.fault_id.iloc[0])).outcome
    except TestbedError as error:
        return str(error)
