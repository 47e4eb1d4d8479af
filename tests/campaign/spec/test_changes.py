"""--set KEY=VALUE: the spec as if the file said so."""

from __future__ import annotations

import pytest

from testbed.campaign.spec.campaign import load_spec
from testbed.core.errors import UsageError
from tests.support.campaigns import DIGITS


def test_values_of_every_kind_are_changed() -> None:
    changes = ["engine.backend=torch", "tiers.images=[4, 4, 4, 4]", "tolerance.atol = 1e-3", "seed=7", 'data.root="x"']
    changed, plain = load_spec(DIGITS, changes), load_spec(DIGITS)
    assert (changed.engine.backend, changed.tiers.images, changed.seed) == ("torch", (4, 4, 4, 4), 7)
    assert (changed.tolerance.atol, changed.data and changed.data.root) == (1e-3, "x")
    assert (changed.faults, changed.engine.batch) == (plain.faults, plain.engine.batch)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("engine.backend", "write KEY=VALUE"),
        ("engine.bakend=torch", "engine.bakend: unknown key; did you mean 'backend'"),
        ("engine.backend=tortch", "unknown engine 'tortch'; did you mean 'torch'"),
        ("faults.ops=flip", "entries are numbered 0 to 4, not 'ops'"),
        ("faults.9.ops=flip", "entries are numbered 0 to 4, not '9'"),
        ("seed.x=1", "seed is not a table or a list"),
        ("seed=-1", "seed"),
    ],
)
def test_a_change_that_cannot_be_is_one_line(change: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as refusal:
        load_spec(DIGITS, [change])
    assert "\n" not in str(refusal.value)


def test_an_entry_of_a_list_is_changed() -> None:
    changed, plain = load_spec(DIGITS, ["faults[0].per_stratum=1", "tiers.images.3=5"]), load_spec(DIGITS)
    assert changed.faults[0] == plain.faults[0].model_copy(update={"per_stratum": 1})
    assert changed.faults[1:] == plain.faults[1:]
    assert changed.tiers.images == (*plain.tiers.images[:3], 5)
