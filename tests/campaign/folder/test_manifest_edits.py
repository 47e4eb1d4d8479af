"""Every value of a real manifest attacked, one edit at a time: refused in one line, or harmless to rows and figures.

A sample of the edits by default, drawn by a fixed seed; all of them with ``-m slow``.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import Result

from testbed.campaign.evaluate.choose import evaluator_for, weights_for
from testbed.campaign.folder.workplace import Workplace
from testbed.core.errors import StaleArtefact
from testbed.core.folder.files import sha256_file
from testbed.core.site import Where
from tests.support.campaigns import TINY
from tests.support.commands import invoke

GONE = object()
JUNK: tuple[Any, ...] = (GONE, None, -1, 0.5, 1e300, 2**63, 10**40, "junk", True, [], {}, [[["x"]]], {"a": {"b": [1]}})
CHECKSUMS = ("format", "checksums")
Place = tuple[str | int, ...]


class Edit(NamedTuple):
    place: Place
    value: Any

    def of(self, manifest: dict[str, Any]) -> dict[str, Any]:
        edited = copy.deepcopy(manifest)
        inner: Any = edited
        for key in self.place[:-1]:
            inner = inner[key]
        if self.value is GONE:
            del inner[self.place[-1]]
        else:
            inner[self.place[-1]] = self.value
        return edited


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    if place:
        yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*place, key))


def edits(manifest: dict[str, Any]) -> list[Edit]:
    """All that change something."""
    every = (Edit(place, value) for place in places(manifest) for value in JUNK)
    return [edit for edit in every if json.dumps(edit.of(manifest)) != json.dumps(manifest)]


def sampled(manifest: dict[str, Any], n: int, seed: int) -> list[Edit]:
    """One of each of so many parts, so that the large ones (sites, engines, fault sections) do not crowd out the rest."""
    every = edits(manifest)
    groups: dict[Place, list[Edit]] = {}
    for edit in every:
        groups.setdefault(edit.place[:3], []).append(edit)
    rng = random.Random(seed)
    return [rng.choice(groups[key]) for key in rng.sample(sorted(groups, key=str), min(n, len(groups)))]


def commands(folder: Path) -> list[tuple[object, ...]]:
    return [
        ("campaign", "status", folder),
        ("campaign", "show", folder),
        ("campaign", "run", TINY, "--run", folder),
        ("fault", "replay", folder, 3),
        ("report", folder),
    ]


def checked(done: Result, what: object) -> bool:
    """Was it refused? A traceback is none of the answers."""
    assert done.exception is None or isinstance(done.exception, SystemExit), (what, done.exc_info)
    if done.exit_code == 0:
        return False
    (last,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert done.stderr.rstrip().endswith(last), what  # one line, and the last
    assert done.exit_code in (1, 2), what
    assert len(last) < 1000, what
    return True


def attack(folder: Path, found: list[Edit], manifest: dict[str, Any], every: bool) -> None:
    """every: each command must refuse every edit."""
    rows = sha256_file(folder / "results.parquet")
    for number, edit in enumerate(found):
        (folder / "manifest.json").write_text(json.dumps(edit.of(manifest)))
        asked = commands(folder)
        for command in asked if every else [asked[number % len(asked)], asked[(number + 2) % len(asked)]]:
            refused = checked(invoke(*command), (edit, command))
            assert refused or not every, (edit, command)
            assert sha256_file(folder / "results.parquet") == rows, (edit, command)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def unsigned(manifest: dict[str, Any]) -> dict[str, Any]:
    """As versions before checksums wrote it."""
    return {key: value for key, value in manifest.items() if key not in CHECKSUMS}


def test_every_edit_of_a_manifest_with_checksums_is_refused(tiny_copy: Path) -> None:
    manifest = json.loads((tiny_copy / "manifest.json").read_text())
    attack(tiny_copy, sampled(manifest, 10, 0), manifest, every=True)
    assert not checked(invoke("campaign", "show", tiny_copy), "as it was")


def test_no_edit_of_an_older_manifest_breaks_a_command_or_a_row(tiny_copy: Path) -> None:
    manifest = unsigned(json.loads((tiny_copy / "manifest.json").read_text()))
    attack(tiny_copy, sampled(manifest, 24, 1), manifest, every=False)


@pytest.mark.slow
@pytest.mark.parametrize("older", [False, True])
def test_all_edits(tiny_copy: Path, older: bool) -> None:
    manifest = json.loads((tiny_copy / "manifest.json").read_text())
    if older:
        manifest = unsigned(manifest)
    attack(tiny_copy, edits(manifest), manifest, every=not older)


@pytest.mark.parametrize(
    ("target", "where", "place", "value"),
    [
        ("attention", "activation", ("sizes", "proj.rows", 1), 0.5),
        ("attention", "activation", ("sizes", "proj.rows"), -1),
        ("attention", "activation", ("sites", "proj"), None),
        ("model", "activation", ("plan", "style"), "junk"),
        ("model", "activation", ("plan",), []),
        ("model.weight", "weight", ("plan", "start"), GONE),
    ],
)
def test_a_damaged_record_of_a_faster_evaluation_is_refused(
    tiny_copy: Path, target: str, where: Where, place: Place, value: Any
) -> None:
    """Before any engine runs a part of the model by it."""
    manifest = unsigned(json.loads((tiny_copy / "manifest.json").read_text()))
    at = ("stages", "gates", "facts", "evaluation", target, "record", *place)
    (tiny_copy / "manifest.json").write_text(json.dumps(Edit(at, value).of(manifest)))
    found = Workplace.at(tiny_copy)
    engine = found.engine(target.removesuffix(".weight"), where)
    with pytest.raises(StaleArtefact, match="--redo gates"):
        (evaluator_for if where == "activation" else weights_for)(found, engine)
    found.close()


def test_the_advice_that_is_given_gives_the_same_rows(tiny_copy: Path) -> None:
    manifest = json.loads((tiny_copy / "manifest.json").read_text())
    rows = sha256_file(tiny_copy / "results.parquet")
    edited = Edit(("stages", "execute", "facts", "rows"), -7).of(manifest)
    (tiny_copy / "manifest.json").write_text(json.dumps(edited))
    refused = invoke("campaign", "show", tiny_copy)
    assert refused.exit_code == 1
    assert "stage 'execute'" in refused.stderr
    assert "--redo execute" in refused.stderr
    assert invoke("campaign", "run", TINY, "--run", tiny_copy).exit_code == 1
    again = invoke("campaign", "run", TINY, "--run", tiny_copy, "--redo", "execute")
    assert again.exit_code == 0, again.output
    assert sha256_file(tiny_copy / "results.parquet") == rows
