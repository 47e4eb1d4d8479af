"""Which sites places cover: weights go with the tensors that first take them on."""

from __future__ import annotations

import pytest
from onnx import ModelProto

from testbed.instrument.table import site_table
from testbed.protect.build import protect
from testbed.protect.contract import CalibrationSet
from testbed.protect.named import passes_named
from testbed.protect.tradeoff.covered import WeightReach, first_sites


@pytest.fixture(scope="module")
def reach(plain: ModelProto) -> WeightReach:
    return WeightReach(first_sites(plain, site_table(plain.SerializeToString(), "model")))


def test_a_weight_is_first_seen_in_what_its_product_gives(reach: WeightReach) -> None:
    first = {name: set(sites) for name, sites in reach.first_sites.items()}
    assert first["block.1.mlp.fc1.weight"] == {"block.1.mlp.fc1"}
    assert first["block.1.mlp.fc1.bias"] == {"block.1.mlp.fc1"}
    assert first["block.0.attn.qkv.weight"] == {f"block.0.attn.{part}" for part in "qkv"}
    assert first["block.1.norm2.weight"] == {"block.1.norm2"}
    assert first["head.bias"] == {"head"}
    assert first["cls_token"] == first["pos_embed"] == {"embed"}


def test_a_place_has_to_cover_all_of_them(reach: WeightReach) -> None:
    some = [{"block.0.attn.k"}, {"block.0.attn.v"}, {"block.0.attn.q"}]
    assert "block.0.attn.qkv.weight" not in reach.covered(some)
    assert "block.0.attn.qkv.weight" in reach.covered([set().union(*some)])
    assert reach.covered([{"head"}]) == {"head", "head.weight", "head.bias"}
    assert reach.covered([]) == frozenset()


def test_checks_of_everything_cover_every_weight(
    reach: WeightReach, plain: ModelProto, calibration: CalibrationSet
) -> None:
    protected = protect(plain, passes_named(["checksum"], {}), calibration)
    covered = reach.covered(spot.covers for spot in protected.applied[0].places)
    assert set(reach.first_sites) <= covered
