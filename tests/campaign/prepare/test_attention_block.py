"""The attention module of any block as a target of its own, of models of the testbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testbed.analysis.outputs.compare import Tolerance
from testbed.campaign.files import TIERS
from testbed.campaign.folder.images import named_images
from testbed.campaign.prepare.subjects import subject_of
from testbed.campaign.spec.campaign import parse_spec
from testbed.core.errors import UsageError
from testbed.golden.arrays import read_array
from testbed.golden.recorded import open_golden
from testbed.golden.reference import module_files, record_reference
from testbed.golden.verify import verify_golden
from testbed.models.runs import MODEL
from testbed.models.weights import load_model
from tests.support.campaigns import prepared, run_here, tiny_values

_ATTENTION = {"target": "attention", "where": "activation", "ops": ["flip"], "bits": [30], "per_stratum": 2}


def two_blocks(**changes: Any) -> dict[str, Any]:
    values = tiny_values() | {"faults": [_ATTENTION], **changes}
    values["model"]["overrides"] |= {"heads": [2, 2], "mlp": [32, 0]}
    values["model"]["training"]["epochs"] = 1
    values["gates"]["allow_chance_accuracy"] = True
    return values


@pytest.fixture(scope="module")
def second_block(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("block") / "run"
    run_here(parse_spec(two_blocks(attention={"block": 1})), path)
    return path


def test_the_second_block_is_recorded_and_struck(second_block: Path, tmp_path: Path) -> None:
    golden = open_golden(second_block)
    every = range(len(golden))
    record_reference(load_model(second_block / MODEL), golden.split, every, tmp_path, modules=["block.1.attn"])
    positions = named_images(second_block / TIERS).positions
    for name, file in zip(("inputs", "golden"), module_files("block.1.attn"), strict=True):
        assert np.array_equal(read_array(second_block / name / "attention.npy"), read_array(tmp_path / file)[positions])
        which = int(name == "golden")
        assert np.array_equal(golden.array(golden.file("block.1.attn", which)), read_array(tmp_path / file))


def test_its_sites_have_the_block_s_own_number(second_block: Path) -> None:
    text = (second_block / "attention.sites.json").read_text()
    assert "block.1.attn.softmax" in text
    assert "block.0" not in text


def test_the_first_block_is_the_same_campaign_stated_or_not() -> None:
    stated = parse_spec(two_blocks(attention={"block": 0}))
    assert "attention" not in parse_spec(two_blocks()).identity()
    assert stated.identity()["attention"] == {"block": 0}


def test_stated_or_not_the_first_block_s_files_are_the_same(tmp_path: Path) -> None:
    both = [
        prepared(parse_spec(two_blocks(**more)), tmp_path / str(n))
        for n, more in enumerate(({}, {"attention": {"block": 0}}))
    ]
    for file in ("attention.onnx", "attention.twin.onnx", "attention.sites.json", "inputs/attention.npy"):
        assert (both[0].folder / file).read_bytes() == (both[1].folder / file).read_bytes()


@pytest.mark.parametrize(
    ("overrides", "block", "message"),
    [
        ({"heads": [2, 2], "mlp": [32, 32]}, 2, "the model has 2 blocks, numbered from 0"),
        ({"heads": [2, 0], "mlp": [32, 32]}, 1, "block 1 has no attention"),
    ],
)
def test_a_block_that_is_not_there_is_refused_before_the_training(
    overrides: dict[str, Any], block: int, message: str
) -> None:
    values = two_blocks(attention={"block": block})
    values["model"]["overrides"] |= overrides
    with pytest.raises(UsageError, match=message):
        subject_of(parse_spec(values))


def test_a_block_of_no_section_is_refused() -> None:
    values = two_blocks(attention={"block": 1}) | {"faults": [_ATTENTION | {"target": "model"}]}
    with pytest.raises(UsageError, match=r"attention\.block.*no section has"):
        parse_spec(values)


@pytest.mark.parametrize("target", ["attention", "attention:1"])
def test_an_engine_of_it_is_verified_against_its_own_golden(second_block: Path, target: str) -> None:
    verified = verify_golden(second_block, target, "ort-cpu", Tolerance(1e-4, 1e-4))
    assert verified.faulty_images == []
    assert verified.max_abs_diff < 1e-4


def test_another_block_of_the_campaign_has_no_engine(second_block: Path) -> None:
    with pytest.raises(UsageError, match="has no target 'attention:0'"):
        verify_golden(second_block, "attention:0", "ort-cpu", Tolerance(1e-4, 1e-4))
