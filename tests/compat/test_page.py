"""The page of the documentation is one that the command makes, of models that are in the catalogue."""

from __future__ import annotations

import re
from pathlib import Path

from testbed.compat.architectures.catalogue import ALL
from testbed.compat.exporters import exporters_of
from testbed.compat.record import CHECKS

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "compat.md").read_text()
ROW = re.compile(r"^\| (?P<family>[^|]+) \| `(?P<name>[^`]+)` \| (?P<exporter>\w+) \| (?P<cells>.+) \|$", re.MULTILINE)


def rows() -> list[tuple[str, str, str, str, list[str]]]:
    """Library, name, family, exporter, cells."""
    found = []
    for section in PAGE.split("\n## ")[1:]:
        library = section.partition("\n")[0]
        for row in ROW.finditer(section):
            found.append((library, row["name"], row["family"], row["exporter"], row["cells"].split(" | ")))
    return found


def test_every_row_is_of_a_model_in_the_catalogue() -> None:
    known = {
        (entry.library, entry.name.partition("/")[2], entry.family, exporter)
        for entry in ALL
        for exporter in exporters_of(entry)
    }
    assert len(rows()) > 0
    assert {row[:4] for row in rows()} <= known
    assert len({row[:4] for row in rows()}) == len(rows())


def test_what_it_counts_are_its_own_rows() -> None:
    signs = [sign for *_, cells in rows() for sign in cells]
    assert all(len(cells) == len(CHECKS) for *_, cells in rows())
    assert set(signs) <= {"yes", "**no**", "-"}
    models = {row[:2] for row in rows()}
    answered = [sign for sign in signs if sign != "-"]
    said = f"{len(models)} architectures, {len(rows())} files, {answered.count('yes')} of {len(answered)} cells"
    assert said in PAGE


def test_whatever_does_not_hold_has_its_reason() -> None:
    for library, name, _, exporter, cells in rows():
        if set(cells) != {"yes"}:
            assert f"- `{library}/{name}`, {exporter}: " in PAGE
