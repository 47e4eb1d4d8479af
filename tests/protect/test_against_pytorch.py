"""Rows of protected campaigns, again in PyTorch with guards, checks and copies by hand: an oracle that shares no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.commands import invoke
from tests.support.protection_oracle import (
    NOTHING,
    OPTIONS,
    PAIR,
    Oracle,
    ProtectedByHand,
    campaign_rows,
    places_of,
)
from tests.support.small_runs import train_small_vit

pytestmark = pytest.mark.slow

ROUNDING = {"nonfinite": 0.05}
"""Share of rows that rounding may decide, 3 % elsewhere. Of values near the largest float32 the order of a sum says whether it
overflows."""
DIGITS: dict[str, Any] = {"images": 8, "draws": 2, "weights": '["*", "!protect.*"]', "weight_bits": [12, 22, 30]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    return train_small_vit(tmp_path_factory.mktemp("by-hand") / "vit")


@pytest.fixture(scope="module")
def oracle(trained: Path) -> Oracle:
    return Oracle.of(trained)


@pytest.fixture(scope="module")
def plain_rows(trained: Path) -> pd.DataFrame:
    return campaign_rows(trained, trained.with_name("plain"), **DIGITS)


def test_plain_rows_are_those_of_pytorch(oracle: Oracle, plain_rows: pd.DataFrame) -> None:
    tally = oracle.check(plain_rows, NOTHING)
    assert tally.rows == len(plain_rows) > 1000
    assert max(tally.rounding.values()) <= 0.03 * tally.rows, tally


@pytest.mark.parametrize("name", OPTIONS)
def test_protected_rows_are_those_of_pytorch(
    name: str, trained: Path, oracle: Oracle, plain_rows: pd.DataFrame, tmp_path: Path
) -> None:
    protected, few = tmp_path / name, ("--calibration-images", 128, "--images", 64)
    result = invoke("protect", trained, *OPTIONS[name], "--to", protected, *few)
    assert result.exit_code == 0, result.output
    rows = campaign_rows(protected, tmp_path / "run", **DIGITS)
    pairs = plain_rows[PAIR].merge(rows[PAIR])
    assert {where: int(count) for where, count in pairs["where"].value_counts().items()}["activation"] > 500
    assert (pairs["where"] == "weight").sum() > 300
    tally = oracle.check(rows, ProtectedByHand.of(name, oracle.vit, places_of(protected)))
    assert tally.rows == len(rows)
    assert max(tally.rounding.values()) <= ROUNDING.get(name, 0.03) * tally.rows, tally
