"""--set KEY=VALUE: the spec as if the file said so."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.campaign.spec import load_spec
from testbed.core.errors import UsageError

SPEC = Path(__file__).parents[2] / "campaigns" / "digits.toml"


def test_values_of_every_kind_are_changed() -> None:
    changes = ["engine.backend=torch", "tiers.images=[4, 4, 4, 4]", "tolerance.atol = 1e-3", "seed=7", 'data.root="x"']
    changed, plain = load_spec(SPEC, changes), load_spec(SPEC)
    assert (changed.engine.backend, changed.tiers.images, changed.seed) == ("torch", (4, 4, 4, 4), 7)
    assert (changed.tolerance.atol, changed.data and changed.data.root) == (1e-3, "x")
    assert (changed.faults, changed.engine.batch) == (plain.faults, plain.engine.batch)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("engine.backend", "write KEY=VALUE"),
        ("engine.bakend=torch", "unknown key 'engine.bakend'"),
        ("engine.backend=tortch", "unknown engine 'tortch'"),
        ("faults.ops=flip", "faults is not a table"),
        ("seed=-1", "seed"),
    ],
)
def test_a_change_that_cannot_be_is_one_line(change: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as refusal:
        load_spec(SPEC, [change])
    assert "\n" not in str(refusal.value)
