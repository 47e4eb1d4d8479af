"""Places, their operations and gains, on the small model."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from testbed.bench.counts import mac_count
from testbed.bench.operations import operations_of
from testbed.protect.build import protect
from testbed.protect.contract import CalibrationSet
from testbed.protect.graph import GraphEditor
from testbed.protect.named import passes_named
from testbed.protect.placement.candidates import candidates_of, narrowed
from testbed.protect.placement.gains import SiteGains, spread_scores
from tests.protect.conftest import CONFIG


def test_macs_are_those_of_the_formula(plain: ModelProto) -> None:
    assert operations_of(plain).total_macs == mac_count(CONFIG)


def test_a_guard_costs_three_operations_an_element(plain: ModelProto, calibration: CalibrationSet) -> None:
    (step,) = passes_named(["range"], {"range": ["*"]})
    sites = GraphEditor(plain).sites
    candidates = candidates_of(plain, [step], calibration, operations_of(plain))
    assert {c.name: c.operations for c in candidates} == {
        name: 3 * site.elements for name, site in sites.items() if name != "head"
    }


def test_a_copy_costs_what_its_part_does(plain: ModelProto, calibration: CalibrationSet) -> None:
    (step,) = passes_named(["duplicate"], {"duplicate": ["block.0.mlp"]})
    (copy,) = candidates_of(plain, [step], calibration, operations_of(plain))
    macs = 2 * CONFIG.tokens * CONFIG.width * CONFIG.mlp[0]
    assert macs < copy.operations < 1.5 * macs


@pytest.mark.parametrize("name", ["range", "duplicate", "checksum", "nonfinite"])
def test_a_chosen_place_is_all_that_its_pass_takes(plain: ModelProto, calibration: CalibrationSet, name: str) -> None:
    passes = passes_named([name], {})
    candidates = candidates_of(plain, passes, calibration, operations_of(plain))
    assert all(candidate.operations > 0 for candidate in candidates)
    chosen = next(c for c in candidates if c.name.startswith("block.1"))
    protected = protect(plain, narrowed(passes, [chosen]), calibration)
    covered = {site for spot in protected.applied[0].places for site in spot.covers}
    assert covered & set(GraphEditor(plain).sites) == set(chosen.covers)


def test_scores_are_spread_over_the_sites_of_their_block(plain: ModelProto) -> None:
    sites = list(GraphEditor(plain).sites.values())
    gains = spread_scores({0: 0.25, 1: 0.75}, sites)
    in_block = {site.name for site in sites if site.block == 1}
    assert gains.of(in_block).share == pytest.approx(0.75)
    assert gains.of({"patch_embed", "norm", "head"}).share == 0
    assert gains.of({"block.0.attn.q", "block.1.attn.q"}).share == pytest.approx(2 * 0.5 / len(in_block))


def test_intervals_are_of_the_sites_together() -> None:
    replicates = np.array([[0.5 + d, 0.5 - d] for d in (-0.2, -0.1, 0.0, 0.1, 0.2)])
    gains = SiteGains(("a", "b"), np.array([0.5, 0.5]), replicates, (8, 16))
    both, first = gains.of({"a", "b"}), gains.of({"a"})
    assert (both.low, both.high) == (1.0, 1.0)
    assert first.low is not None
    assert first.low < 0.5
    assert gains.rows({"b"}) == 16
