"""Every key of a sweep, of comparisons, of a bit-error-rate sweep and a fault lens has its meaning on its reference page."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from testbed.ber.record import BitErrorRecord
from testbed.compare.campaigns import compare_campaigns
from testbed.compare.engine_record import EngineComparison
from testbed.compare.precision_record import PrecisionComparison
from testbed.core.folder.forms import Form
from testbed.protect.paired.record import ProtectionComparison
from testbed.protect.tradeoff.record import ProtectionTradeoff
from testbed.sensitivity.campaign_lens.record import LensPlan, LensRecord
from testbed.sweep.record import SweepRecord
from tests.support.commands import invoke
from tests.support.html import read_page

SHORT = 8  # characters: less is no description
PAGES: dict[str, list[type[Form]]] = {
    "sweep": [SweepRecord],
    "compare": [EngineComparison, PrecisionComparison],
    "protection": [ProtectionComparison, ProtectionTradeoff],
    "ber": [BitErrorRecord],
    "lens": [LensRecord, LensPlan],
}


def forms(form: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The form and all that its fields are made of, by name."""
    found = {form.__name__: form}
    for hint in typing.get_type_hints(form).values():
        for inner in records(hint):
            found |= {} if inner.__name__ in found else forms(inner)
    return found


def records(hint: Any) -> Iterator[type[Form]]:
    if isinstance(hint, type) and issubclass(hint, Form):
        yield hint
    for part in typing.get_args(hint):
        yield from records(part)


@pytest.mark.parametrize("page", PAGES)
def test_every_key_of_a_record_has_its_meaning_on_the_reference_page(site: Path, page: str) -> None:
    shown = read_page(site / "reference" / f"{page}.html").rows
    missing, keys = [], 0
    for name, form in (item for root in PAGES[page] for item in forms(root).items()):
        for key, field in form.model_fields.items():
            keys += 1
            meaning = (field.description or "").replace("`", "")
            row = shown.get(f"{name}.{key}", ["", "", ""])
            if len(meaning) < SHORT or row[0] != key or not row[1] or row[2] != meaning:
                missing.append(f"{name}.{key}")
    assert missing == []
    assert keys > 20


def test_no_key_of_a_sweep_is_without_a_field(swept_run: Path) -> None:
    invoke("sweep", swept_run, "--noise", "twin", "--link", "--json")
    swept = SweepRecord.model_validate(json.loads((swept_run / "sweep.json").read_text()))
    assert swept.link is not None
    assert [path for path, part in parts(swept, "sweep") if part.model_extra] == []


def parts(value: Any, path: str) -> Iterator[tuple[str, BaseModel]]:
    """Every record within a record, with its path."""
    if isinstance(value, BaseModel):
        yield path, value
        for key, inner in value:
            yield from parts(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from parts(inner, f"{path}[]")


def test_what_a_comparison_prints_is_its_record(tiny_run: Path) -> None:
    printed = json.loads(invoke("campaign", "compare", tiny_run, tiny_run, "--json").stdout)
    assert list(printed) == list(EngineComparison.model_fields)
    assert compare_campaigns(tiny_run, tiny_run).to_json() == printed
