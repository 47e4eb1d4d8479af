"""The CIFAR-10 ViT of six blocks, guarded and checked: rows of its campaigns again in PyTorch."""

from __future__ import annotations

import os
import tarfile
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

pytestmark = pytest.mark.slow

D6: dict[str, Any] = {
    "images": 4,
    "draws": 1,
    "weights": '["block.*.fc1.weight", "head.weight"]',
    "weight_bits": [22, 30],
}
PER_CLASS = {"train": 16, "test": 30}


@pytest.fixture(scope="module")
def d6(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of the model, its data set a few images of each class."""
    shared = Path(os.environ.get("TESTBED_SHARED") or Path(__file__).parents[2].parent / "shared") / "data"
    if not (shared / "vit_cifar_d6.pth").is_file():
        pytest.skip(f"{shared} is not there; TESTBED_SHARED names the folder that holds data/")
    folder = tmp_path_factory.mktemp("d6")
    with tarfile.open(shared / "cifar10-jpeg.tar.gz") as tar:
        tar.extractall(folder, [member for member in tar if _is_wanted(member)], filter="data")
    images = f"imagefolder:{folder / 'cifar10-jpeg'}"
    run = folder / "vit"
    result = invoke("import", shared / "vit_cifar_d6.pth", "--run", run, "--data", images, "--preprocess", "cifar10")
    assert result.exit_code == 0, result.output
    return run


def _is_wanted(member: tarfile.TarInfo) -> bool:
    path = Path(member.name)
    return path.suffix == ".jpg" and int(path.stem) < PER_CLASS[path.parts[1]]


@pytest.fixture(scope="module")
def oracle(d6: Path) -> Oracle:
    return Oracle.of(d6)


@pytest.fixture(scope="module")
def plain_rows(d6: Path) -> pd.DataFrame:
    return campaign_rows(d6, d6.with_name("plain"), **D6)


def test_plain_rows_are_those_of_pytorch(oracle: Oracle, plain_rows: pd.DataFrame) -> None:
    tally = oracle.check(plain_rows, NOTHING)
    assert tally.rows > 500
    assert max(tally.rounding.values()) <= 0.03 * tally.rows, tally


@pytest.mark.parametrize("name", ["range", "checksum"])
def test_protected_rows_are_those_of_pytorch(
    name: str, d6: Path, oracle: Oracle, plain_rows: pd.DataFrame, tmp_path: Path
) -> None:
    protected = tmp_path / name
    result = invoke("protect", d6, *OPTIONS[name], "--to", protected, "--calibration-images", 128, "--images", 64)
    assert result.exit_code == 0, result.output
    rows = campaign_rows(protected, tmp_path / "run", **D6)
    assert len(plain_rows[PAIR].merge(rows[PAIR])) > 500
    tally = oracle.check(rows, ProtectedByHand.of(name, oracle.vit, places_of(protected)))
    assert max(tally.rounding.values()) <= 0.03 * tally.rows, tally
