"""Weight faults by suffixes give the bits of the whole engine with the same weights struck."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from testbed.campaign.evaluate.contract import FaultyRun
from testbed.campaign.evaluate.weights import evaluator as suffix_weights
from testbed.campaign.evaluate.weights.evaluator import WeightShortcuts, WeightSuffix
from testbed.campaign.evaluate.weights.gate import prove_weights, trial_count
from testbed.core.arrays import Int64s
from testbed.core.errors import EngineError, StaleArtefact
from testbed.core.outcome import How
from testbed.core.site import Site
from testbed.engines.backends import available
from testbed.engines.runner import Runner, WeightFault, WeightInjector, faulty_weights
from tests.support.suffix_lab import CONFIGS, IMAGES, Lab, bits, exported


class WeightLab(Lab):
    """And the whole engine with weights that can be struck."""

    @cached_property
    def injector(self) -> Runner:
        return self.open(self.plain, batch=self.batch, mutable_weights=True)

    def inject(self, places: Sequence[WeightFault], images: Int64s | None = None) -> FaultyRun:
        assert isinstance(self.injector, WeightInjector)
        with faulty_weights(self.injector, places) as words:
            outputs = self._outputs()
            return FaultyRun(outputs if images is None else outputs[images], words, How.WHOLE)

    def _outputs(self) -> NDArray:
        parts = []
        for start in range(0, IMAGES, self.batch):
            rows = np.arange(start, min(start + self.batch, IMAGES))
            padded = np.concatenate([rows, np.zeros(self.batch - len(rows), np.int64)])
            parts.append(self.injector.run({"image": self.images[padded]})["head"][: len(rows)])
        return np.concatenate(parts)

    def suffix(self, plan: WeightShortcuts | None = None, **budgets: int) -> WeightSuffix:
        return WeightSuffix(
            self.stages,
            plan or WeightShortcuts(),
            self.open,
            self.inject,
            lambda rows: self.images[rows],
            IMAGES,
            self.batch,
            **budgets,
        )

    @property
    def weights(self) -> list[Site]:
        return [site for site in self.table if site.where == "weight"]

    def faults(self, per_weight: int, seed: int) -> Iterator[list[WeightFault]]:
        rng = np.random.default_rng(seed)
        for site in self.weights:
            for _ in range(per_weight):
                yield [self.flip(site, int(rng.integers(site.elements)), int(rng.integers(32)))]

    def flip(self, site: Site, index: int, bit: int) -> WeightFault:
        masks = (np.array([mask], np.uint32) for mask in (0xFFFFFFFF, 0, 1 << bit))
        return WeightFault(site.tensor, np.array([site.stored_index(index)]), *masks)


@pytest.fixture(scope="module")
def model() -> WeightLab:
    return WeightLab(exported("pre-norm"))


def same(model: WeightLab, suffix: WeightSuffix, places: Sequence[WeightFault], images: Int64s | None = None) -> How:
    found, wanted = suffix.inject(places, images), model.inject(places, images)
    np.testing.assert_array_equal(bits(found.outputs), bits(wanted.outputs))
    for one, other in zip(found.words, wanted.words, strict=True):
        np.testing.assert_array_equal(bits(np.stack(one)), bits(np.stack(other)))
    return found.how


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    "plan",
    [WeightShortcuts(), WeightShortcuts("weight"), WeightShortcuts("block", last=False)],
    ids=["least", "articulations", "blocks"],
)
def test_every_weight_gives_the_whole_engines_bits(name: str, plan: WeightShortcuts) -> None:
    model = WeightLab(exported(name))
    suffix = model.suffix(plan)
    hows = [same(model, suffix, places) for places in model.faults(3, seed=1)]
    assert hows.count(How.SUFFIX) >= 0.8 * len(hows)
    assert suffix.engine_seconds > 0
    for entry in suffix.entries.names:  # everything was restored
        np.testing.assert_array_equal(bits(suffix.golden_by_pieces(entry)), bits(suffix.golden))


def test_little_memory_gives_the_same_bits(model: WeightLab) -> None:
    budgets: dict[str, Any]
    for budgets in ({"golden_bytes": 1}, {"weight_bytes": 1}, {"golden_bytes": 40_000, "weight_bytes": 20_000}):
        suffix = model.suffix(None, **budgets)
        hows = {same(model, suffix, places) for places in model.faults(1, seed=2)}
        assert hows <= ({How.WHOLE} if "weight_bytes" not in budgets else {How.WHOLE, How.SUFFIX})


def test_several_weights_start_before_the_first_of_them(model: WeightLab) -> None:
    suffix = model.suffix(weight_bytes=30_000)  # several engines one after the other
    sites = {site.name: site for site in model.weights}
    for names in (["block.2.mlp.fc1.weight", "block.0.attn.qkv.weight"], ["head.bias", "block.1.norm2.weight"]):
        same(model, suffix, [model.flip(sites[name], 3, 30) for name in names])
        first = min(names, key=list(sites).index)
        tensors = [sites[name].tensor for name in names]
        assert suffix.entries.before(tensors) == suffix.entries.before([sites[first].tensor])


def test_suffixes_start_right_before_the_weight(model: WeightLab) -> None:
    entries = model.suffix().entries
    assert entries.before(["block.1.attn.qkv.weight"]) == "block.0.mlp.residual"
    assert entries.before(["block.1.mlp.fc1.bias"]) == "block.1.attn.residual"  # no product lies between them
    hidden = entries.before(["block.1.mlp.fc2.bias"])
    assert hidden is not None
    assert entries.needed(hidden) == (hidden, "block.1.attn.residual")
    assert entries.before(["head.weight"]) == "norm"
    narrow = model.suffix(WeightShortcuts("weight")).entries
    assert narrow.before(["block.1.mlp.fc2.bias"]) == "block.1.attn.residual"
    assert set(narrow.names) < set(entries.names)
    for_these = IMAGES * 4 * sum(math.prod(model.stages.flow.per_image(name)) for name in narrow.names)
    for budgets in ({"weight_bytes": 1}, {"golden_bytes": for_these}):  # too little for more
        assert model.suffix(None, **budgets).entries.names == narrow.names
    assert entries.before(["no such weight"]) is None
    cost = model.suffix().relative_cost
    assert cost(["block.0.mlp.fc1.weight"]) > cost(["block.1.mlp.fc1.weight"]) > cost(["block.1.mlp.fc2.weight"])
    assert cost(["block.1.mlp.fc2.weight"]) > cost(["block.2.attn.qkv.weight"]) > cost(["head.weight"]) > 0


def test_engines_inside_a_block_end_with_it(model: WeightLab) -> None:
    """What follows is run by the next block's suffix: weights are not held once more for every place inside."""
    suffix = model.suffix()
    for name in ("block.0.mlp.fc2.weight", "block.0.attn.proj.weight", "block.0.mlp.fc1.weight"):
        same(model, suffix, [model.flip(next(site for site in model.weights if site.name == name), 3, 30)])
    opened = model.opened
    same(model, suffix, [model.flip(next(s for s in model.weights if s.name == "block.1.attn.qkv.weight"), 3, 30)])
    assert model.opened == opened


def test_the_last_block_is_run_for_the_tokens_that_the_head_looks_at(model: WeightLab) -> None:
    suffix, narrow = model.suffix(), model.suffix(WeightShortcuts("weight"))
    for name in ("attn.proj", "mlp.fc1", "mlp.fc2"):
        tensors = [f"block.2.{name}.weight"]
        assert suffix.relative_cost(tensors) <= narrow.relative_cost(tensors)


def test_a_weight_of_several_blocks_is_struck_in_all(model: WeightLab) -> None:
    """It lies in the engine that ends with its first block, and in the one behind that."""
    proto = onnx.load_from_string(model.plain)
    for node in proto.graph.node:
        node.input[:] = ["block.0.norm2.weight" if name == "block.1.norm2.weight" else name for name in node.input]
    tied = WeightLab(proto.SerializeToString())
    suffix = tied.suffix()
    site = next(site for site in tied.weights if site.tensor == "block.0.norm2.weight")
    for index, bit in ((0, 30), (3, 22), (5, 31)):
        assert same(tied, suffix, [tied.flip(site, index, bit)]) == How.SUFFIX
    for entry in suffix.entries.names:
        np.testing.assert_array_equal(bits(suffix.golden_by_pieces(entry)), bits(suffix.golden))


def test_budgets_count_what_follows_engines_inside_blocks(model: WeightLab) -> None:
    """However few entries are left, the suffixes behind them hold weights."""
    for golden_bytes in (2_000, 20_000, 60_000):
        entries = model.suffix(None, golden_bytes=golden_bytes).entries
        assert (entries.per_stage > 0) == bool(entries.names)


def test_a_fault_that_changes_no_bit_is_not_run(model: WeightLab) -> None:
    suffix = model.suffix()
    suffix.inject([model.flip(model.weights[-1], 0, 30)])  # opens what there is to open
    site = next(site for site in model.weights if site.name == "head.bias")
    place = model.flip(site, 0, 3)
    nothing = WeightFault(place.tensor, place.index, place.and_mask, place.or_mask, place.xor_mask * 0)
    seconds = suffix.engine_seconds
    assert same(model, suffix, [nothing]) == How.UNCHANGED
    assert suffix.engine_seconds == seconds


@pytest.mark.parametrize("backend", ["ort-cpu", "openvino"])
def test_the_gate_finds_a_plan(backend: str) -> None:
    usable, why = available(backend)
    if not usable:
        pytest.skip(why)
    model = WeightLab(exported("pre-norm"), backend=backend)
    proof = prove_weights(model.suffix, model.inject, model.weights, seed=1, per_site_kind=2)
    assert proof.plan is not None
    assert proof.record.faults == trial_count(model.weights)
    assert WeightShortcuts.from_record(json.loads(json.dumps(proof.record.to_json()))["plan"]) == proof.plan
    with pytest.raises(StaleArtefact, match="redo gates"):
        WeightShortcuts.from_record({"start": "weight"})


def test_a_last_block_that_differs_is_run_in_full(model: WeightLab, monkeypatch: pytest.MonkeyPatch) -> None:
    real = suffix_weights.restricted

    def wrong(*arguments: Any) -> Any:
        found = real(*arguments)
        for tensor in found.proto.graph.initializer:
            if tensor.name == "head.bias":
                tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) + np.float32(1e-3)).tobytes()
        return found

    monkeypatch.setattr(suffix_weights, "restricted", wrong)
    proof = prove_weights(model.suffix, model.inject, model.weights, seed=1, per_site_kind=1)
    assert proof.plan == WeightShortcuts(last=False)
    assert "golden" in proof.record.tried[0].wrong


def test_engines_that_do_not_hear_a_faulty_weight_stay_off(model: WeightLab) -> None:
    class Deaf(WeightLab):
        def open(self, model: bytes, *, batch: int | None = None, mutable_weights: bool = False) -> Runner:
            runner = super().open(model, batch=batch, mutable_weights=mutable_weights)
            if mutable_weights and model != self.plain:
                stored = runner.weight  # type: ignore[attr-defined]
                runner.weight = cache(lambda name: stored(name).copy())  # type: ignore[attr-defined]
            return runner

    deaf = Deaf(exported("pre-norm"))
    proof = prove_weights(deaf.suffix, deaf.inject, deaf.weights, seed=1, per_site_kind=2)
    assert proof.plan is None
    assert "faults" in proof.record.tried[0].wrong


def test_an_engine_that_refuses_segments_leaves_the_whole(model: WeightLab) -> None:
    class Refusing(WeightLab):
        def open(self, model: bytes, *, batch: int | None = None, mutable_weights: bool = False) -> Runner:
            if mutable_weights and model != self.plain:
                raise EngineError("no part of a model for me")
            return super().open(model, batch=batch, mutable_weights=mutable_weights)

    refusing = Refusing(exported("pre-norm"))
    proof = prove_weights(refusing.suffix, refusing.inject, refusing.weights, seed=1, per_site_kind=1)
    assert proof.plan is None
    assert "no part" in proof.record.tried[0].wrong


def test_the_gate_injects_only_where_the_campaign_does(model: WeightLab) -> None:
    faulty = [site for site in model.weights if site.name in ("head.bias", "block.0.attn.qkv.weight")]
    seen: set[str] = set()

    def whole(places: Sequence[WeightFault], images: Int64s | None = None) -> FaultyRun:
        seen.update(place.tensor for place in places)
        return model.inject(places, images)

    proof = prove_weights(model.suffix, whole, faulty, seed=1, per_site_kind=2)
    assert seen == {site.tensor for site in faulty}
    assert proof.plan == WeightShortcuts()
    assert proof.record.faults == 2 * 3


def test_tensors_with_numbers_for_names_are_one_kind_and_scalars_get_fewer_faults(model: WeightLab) -> None:
    base = next(site for site in model.weights if site.name == "head.weight")
    scales = [Site(f"val_{number}.scale", "weight", (), tensor=base.tensor) for number in range(40)]
    proof = prove_weights(model.suffix, model.inject, scales, seed=1, per_site_kind=2)
    assert proof.record.faults == 6 * 2
