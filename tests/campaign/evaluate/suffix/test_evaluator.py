"""Suffix replay gives the whole twin's bits, whatever is struck, and runs no more than it must."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from testbed.campaign.evaluate.contract import Injections, NotDeterministic
from testbed.campaign.evaluate.suffix.routes import Way
from testbed.campaign.evaluate.suffix.shortcuts import BARE, Shortcuts
from testbed.engines.backends import available
from testbed.instrument.adopt.file import adopt
from tests.support.exporters import randomised, written
from tests.support.libraries import LIBRARIES
from tests.support.suffix_lab import CONFIGS, Lab, bits, evaluated, exported, with_words

PLANS = {
    "all": Shortcuts(),
    "bare": BARE,
    "idle ports": Shortcuts(style="ported"),
    "no rows": Shortcuts(rows=False),
    "rows only": BARE.with_(rows=True),
    "inside only": BARE.with_(inside=True),
}


@cache
def lab(name: str) -> Lab:
    return Lab(exported(name))


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Lab:
    return lab(request.param)


@pytest.fixture(params=PLANS)
def plan(request: pytest.FixtureRequest) -> Shortcuts:
    return PLANS[request.param]


def same(model: Lab, injections: Injections, plan: Shortcuts, **budgets: int) -> list[str]:
    """Asserts that the outputs are the whole twin's; how they were found."""
    evaluator = model.evaluator(plan, **budgets)
    found, how = evaluated(evaluator, injections)
    evaluator.close()
    wanted, _ = evaluated(model.whole, injections)
    np.testing.assert_array_equal(bits(found), bits(wanted))
    return how


def test_faults_at_every_site_give_the_whole_twins_bits(model: Lab, plan: Shortcuts) -> None:
    how = same(model, model.injections(300, seed=1), plan)
    assert "WHOLE" not in how


@pytest.mark.parametrize("plan", [Shortcuts(), Shortcuts(inside=False)], ids=["all", "not inside"])
def test_faults_of_several_elements_give_the_whole_twins_bits(model: Lab, plan: Shortcuts) -> None:
    how = same(model, model.injections(120, seed=2, points=3), plan)
    assert "WHOLE" not in how


def test_every_way_is_taken() -> None:
    model = lab("pre-norm")
    ways, _, _ = model.evaluator().routes.ways(model.injections(400, seed=3))
    spread, _, _ = model.evaluator().routes.ways(model.injections(100, seed=3, points=2))
    assert {Way(way) for way in {*ways, *spread}} == set(Way) - {Way.WHOLE}


def test_dead_faults_are_not_run_and_would_have_changed_nothing() -> None:
    for name in ("pre-norm", "post-norm, first token", "differential, mean of patches", "pruned"):
        model = lab(name)
        injections = model.injections(500, seed=4)
        _, how = evaluated(model.evaluator(), injections)
        dead = injections.take(np.flatnonzero([h == "DEAD" for h in how]))
        assert len(dead), name
        outputs, _ = evaluated(model.whole, dead)
        np.testing.assert_array_equal(bits(outputs), bits(model.whole.golden[dead.image]))


def test_mean_of_all_tokens_leaves_nothing_dead() -> None:
    model = lab("post-norm, mean")
    _, how = evaluated(model.evaluator(), model.injections(300, seed=5))
    assert "DEAD" not in how


def test_dead_sites_are_those_of_the_last_block_off_the_first_token() -> None:
    model = lab("pre-norm")
    evaluator, injections = model.evaluator(), model.injections(600, seed=6)
    ways, _, _ = evaluator.routes.ways(injections)
    names = list(model.table.ports)
    last_k = model.table.ports["block.2.attn.k"]
    for row in np.flatnonzero(ways == Way.DEAD):
        assert names[injections.ports.site[row, 0]].startswith("block.2.")
    assert not (ways[injections.ports.site[:, 0] == last_k] == Way.DEAD).any()
    fc1 = injections.take(np.flatnonzero(injections.ports.site[:, 0] == model.table.ports["block.2.mlp.fc1"]))
    alive = fc1.ports.index[:, 0] < 16  # width of the last block's MLP
    np.testing.assert_array_equal(evaluator.routes.ways(fc1)[0] == Way.DEAD, ~alive)


def test_a_fault_that_is_rounded_away_stops_in_its_own_block() -> None:
    model = lab("pre-norm")
    injections = model.injections(60, seed=7, sites=model.sites("mlp.fc1"))
    nothing = injections.ports.golden  # written over with what is there
    p = injections.ports
    idle = Injections(injections.image, type(p)(p.site, p.index, p.and_mask * 0, nothing, p.xor_mask * 0, p.golden))
    evaluator = model.evaluator()
    outputs, how = evaluated(evaluator, idle)
    assert set(how) == {"UNCHANGED", "DEAD"}
    np.testing.assert_array_equal(bits(outputs), bits(model.whole.golden[idle.image]))


def test_little_memory_gives_the_same_bits() -> None:
    model = lab("pruned")
    injections = model.injections(200, seed=8)
    same(model, injections, Shortcuts(), golden_bytes=1, weight_bytes=1)
    same(model, injections, BARE, golden_bytes=1, weight_bytes=4000)


def test_golden_values_that_made_room_for_others_are_computed_again() -> None:
    model = lab("pre-norm")
    evaluator = model.evaluator(golden_bytes=1)
    for seed in (16, 17, 18):
        injections = model.injections(60, seed=seed)
        wanted, _ = evaluated(model.whole, injections)
        np.testing.assert_array_equal(bits(evaluated(evaluator, injections)[0]), bits(wanted))


def test_a_batch_of_one_and_one_that_does_not_divide_give_the_same_bits() -> None:
    for batch in (1, 5):
        model = Lab(exported("pre-norm"), batch=batch)
        same(model, model.injections(150, seed=9), Shortcuts())


@pytest.mark.parametrize("mechanism", ["xor", "op"])
def test_other_ports_give_the_same_bits(mechanism: str) -> None:
    if mechanism == "op" and not _has_op():
        pytest.skip("testbed::FaultPort was not built")
    model = Lab(exported("pre-norm"), mechanism=mechanism)
    same(model, model.injections(150, seed=10), Shortcuts())
    same(model, model.injections(60, seed=10, points=2), Shortcuts())


def test_several_sites_of_one_stage_run_that_stage_and_others_the_whole() -> None:
    if not _has_op():
        pytest.skip("testbed::FaultPort was not built")
    model = Lab(exported("pre-norm"), mechanism="op")
    injections = model.injections(80, seed=11, points=2)
    rng = np.random.default_rng(0)
    near = [model.table.ports[f"block.1.{name}"] for name in ("attn.q", "mlp.fc1", "norm2")]
    far = [model.table.ports[name] for name in ("block.0.attn.q", "block.2.attn.scores")]
    p = injections.ports
    site = np.stack([rng.permutation(near)[:2] if row % 2 else far for row in range(80)])
    mixed = Injections(injections.image, type(p)(site, p.index % 64, p.and_mask, p.or_mask, p.xor_mask, p.golden))
    mixed = with_words(mixed, model.live(mixed))
    assert set(same(model, mixed, Shortcuts())) <= {"WHOLE", "SUFFIX", "UNCHANGED"}
    assert set(model.evaluator().routes.ways(mixed)[0]) == {Way.WHOLE, Way.TWIN}


def _has_op() -> bool:
    from testbed.engines import native

    return native.op_library() is not None


def test_openvino_gives_its_own_whole_twins_bits() -> None:
    usable, why = available("openvino")
    if not usable:
        pytest.skip(why)
    for name in ("pre-norm", "post-norm, mean"):
        model = Lab(exported(name), backend="openvino")
        same(model, model.injections(150, seed=12), Shortcuts())


@pytest.mark.parametrize(
    ("library", "exporter"), [("timm", "dynamo"), ("hugging face", "dynamo"), ("torchvision", "torchscript")]
)
def test_files_of_other_libraries_give_the_whole_twins_bits(library: str, exporter: str, tmp_path: Path) -> None:
    """Their attention is written otherwise: batch and heads joined, masks added, tokens before the batch."""
    file = written(randomised(LIBRARIES[library].model()), tmp_path / "model.onnx", exporter)
    model = Lab(adopt(file).plain)
    how = same(model, model.injections(200, seed=19), Shortcuts())
    assert how.count("ROWS") + how.count("SUFFIX") > 100
    assert "DEAD" in how


def test_a_word_that_is_not_golden_is_refused_on_every_way() -> None:
    model = lab("pre-norm")
    injections = model.injections(400, seed=13)
    ways, _, _ = model.evaluator().routes.ways(injections)
    evaluator = model.evaluator()
    for way in set(ways) - {Way.DEAD}:
        one = injections.take(np.flatnonzero(ways == way)[:1])
        with pytest.raises(NotDeterministic, match="in its golden run"):
            list(evaluator.evaluate(with_words(one, one.ports.golden ^ np.uint32(1))))


def test_work_is_less_the_later_the_fault_and_none_where_it_is_dead() -> None:
    model = lab("pre-norm")
    evaluator = model.evaluator()
    injections = model.injections(400, seed=14)
    cost = evaluator.relative_cost(injections)
    ways, ports, _ = evaluator.routes.ways(injections)
    assert (cost[ways == Way.DEAD] == 0).all()
    assert cost.max() <= 1.01  # a stage of two rows may cost a little more than it saves in a tiny model
    fc1 = [cost[(ports == model.table.ports[f"block.{b}.mlp.fc1"]) & (ways != Way.DEAD)].mean() for b in range(3)]
    assert fc1[0] > fc1[1] > fc1[2] > 0
    list(evaluator.evaluate(injections))
    assert evaluator.engine_seconds > 0


def test_engines_are_opened_only_for_sites_with_faults() -> None:
    model = lab("pre-norm")
    before = model.opened
    evaluated(model.evaluator(), model.injections(40, seed=15, sites=model.sites("block.2.mlp.fc1")))
    assert model.opened - before <= 3  # golden values, rows of the MLP, the head
