"""The gate turns on what is shown to give the same bits, and off what does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from testbed.campaign.evaluate.contract import Evaluated, Injections
from testbed.campaign.evaluate.suffix import segments as suffix_segments
from testbed.campaign.evaluate.suffix.evaluator import SuffixEvaluator
from testbed.campaign.evaluate.suffix.gate import SuffixProof, prove_suffix
from testbed.campaign.evaluate.suffix.rows import RowRunner
from testbed.campaign.evaluate.suffix.sample import loud_words, sample
from testbed.campaign.evaluate.suffix.shortcuts import BARE, STYLES, Shortcuts
from testbed.core.errors import EngineError, StaleArtefact
from testbed.core.formats import format_named
from testbed.export.precision import Calibration, cast_model, quantise
from testbed.instrument.ports.feed import NO_SITE, from_words
from tests.support.suffix_lab import CONFIGS, IMAGES, Lab, bits, evaluated, exported


@pytest.fixture(scope="module")
def model() -> Lab:
    return Lab(exported("pre-norm"))


def proof(model: Lab) -> SuffixProof:
    return prove_suffix(model.evaluator, model.whole, model.live, IMAGES, seed=1, per_site_kind=2)


@pytest.mark.parametrize("name", CONFIGS)
def test_everything_is_on_where_all_bits_are_the_same(name: str) -> None:
    found = proof(Lab(exported(name)))
    assert found.plan == Shortcuts()
    assert found.record.golden_mismatches == 0
    assert not any(way.mismatches for way in found.record.ways.values())
    assert found.record.rows >= 4 * len({site.kind for site in Lab(exported(name)).sites()})


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_in_other_precisions_what_the_gate_lets_through_holds(precision: str) -> None:
    plain = onnx.load_from_string(exported("pre-norm"))
    inputs = np.random.default_rng(0).standard_normal((32, 1, 8, 8)).astype(np.float32)
    file = cast_model(plain, precision) if precision == "fp16" else quantise(plain, inputs, Calibration(len(inputs)))
    model = Lab(file.SerializeToString(), precision=precision)
    plan = proof(model).plan
    assert plan is not None or precision == "fp16"  # emulated: whatever is cut is rounded where the whole is not
    if plan is not None:
        injections = model.injections(300, seed=5)
        found, how = evaluated(model.evaluator(plan), injections)
        np.testing.assert_array_equal(bits(found), bits(evaluated(model.whole, injections)[0]))
        assert "WHOLE" not in how


def test_the_record_is_json_and_gives_the_plan_back(model: Lab) -> None:
    found = proof(model)
    assert Shortcuts.from_record(json.loads(json.dumps(found.record.to_json()))["plan"]) == found.plan
    with pytest.raises(StaleArtefact, match="redo gates"):
        Shortcuts.from_record({"style": "opaque"})


def test_the_sample_is_seeded_and_has_dead_faults_among_it(model: Lab) -> None:
    one, two = proof(model).record, proof(model).record
    assert one == two
    assert one.ways["dead"].rows > 0


def off_by_a_bit(values: NDArray) -> NDArray:
    changed = values.copy()
    bits(changed)[...] ^= 1
    return changed


def test_rows_that_differ_are_switched_off_alone(model: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = RowRunner.__call__

    def wrong(self: RowRunner, *arguments: Any) -> dict[str, NDArray]:
        return {name: off_by_a_bit(values) for name, values in rows(self, *arguments).items()}

    monkeypatch.setattr(RowRunner, "__call__", wrong)
    found = proof(model)
    assert found.plan == Shortcuts(rows=False)
    assert any(not tried.passed for tried in found.record.tried)


def test_rows_that_the_engine_computes_otherwise_are_switched_off_alone(
    model: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row that runs along unharmed tells: here a kernel whose rows depend on how many there are."""
    part = suffix_segments.PortedSegment.faulty

    def wrong(self: Any, feeds: Any, ports: Any) -> Any:
        outputs, live = part(self, feeds, ports)
        rows = any(value.ndim > 2 and 2 in value.shape[1:-1] for value in feeds.values())
        return ({name: off_by_a_bit(v) for name, v in outputs.items()} if rows else outputs), live

    monkeypatch.setattr(suffix_segments.PortedSegment, "faulty", wrong)
    assert proof(model).plan == Shortcuts(rows=False)


def test_rows_that_overflow_where_the_whole_does_not_are_switched_off(
    model: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a scale of one half is fused into a product in one graph, and follows it in the other."""
    part = suffix_segments.PortedSegment.faulty

    def scaled_later(self: Any, feeds: Any, ports: Any) -> Any:
        outputs, live = part(self, feeds, ports)
        rows = any(value.ndim > 2 and 2 in value.shape[1:-1] for value in feeds.values())
        with np.errstate(over="ignore"):
            return ({name: (v * 2) * np.float32(0.5) for name, v in outputs.items()} if rows else outputs), live

    monkeypatch.setattr(suffix_segments.PortedSegment, "faulty", scaled_later)
    assert proof(model).plan == Shortcuts(rows=False)


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16"])
def test_loud_words_are_as_large_as_numbers_get_and_include_infinity(name: str) -> None:
    form = format_named(name)
    words = np.array(loud_words(form, np.random.default_rng(0)), np.uint32)
    with np.errstate(over="ignore"):
        size = np.abs(from_words(words, name).astype(np.float64))
    largest = size[np.isfinite(size)].max()
    assert np.isinf(size).sum() == 1
    assert (size[np.isfinite(size)] >= largest / 2).sum() >= 10
    assert ((size > largest**0.5 / 32) & (size < largest**0.5 * 32)).sum() >= 3
    assert not np.isnan(size).any()


def test_every_kind_of_site_is_injected_with_loud_words(model: Lab) -> None:
    injections = sample(model.stages.table.ports, model.stages.table, model.live, len(model.images), 1, seed=1)
    ports, names = injections.ports, list(model.table.ports)
    loud = (ports.and_mask[:, 0] == 0) & (ports.or_mask[:, 0] & 0x7F800000 >= 0x7F000000)
    kinds = {model.table[names[port]].kind for port in ports.site[loud, 0]}
    assert kinds == {site.kind for site in model.table if site.where == "activation"}


def test_a_proof_of_death_that_is_wrong_is_found(model: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    live_site = model.sites("block.1.mlp.gelu")[0].name
    monkeypatch.setitem(model.stages.dead, live_site, None)
    found = proof(model)
    assert found.plan == Shortcuts(dead=False)


def test_a_last_block_that_differs_is_run_in_full(model: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    real = suffix_segments.restricted

    def wrong(flow: Any, places: Any, inputs: Any, wanted: Any, rows: Any) -> Any:
        found = real(flow, places, inputs, wanted, rows)
        if not isinstance(rows, int):
            bias = next(t for t in found.proto.graph.initializer if t.name == "block.2.mlp.fc2.bias")
            bias.raw_data = (np.frombuffer(bias.raw_data, np.float32) + 1).tobytes()
        return found

    monkeypatch.setattr(suffix_segments, "restricted", wrong)
    assert proof(model).plan == Shortcuts(last=False)


def test_segments_that_fuse_otherwise_get_idle_ports(model: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    real = suffix_segments.opaque

    def wrong(proto: Any, tensors: Any) -> Any:
        done = real(proto, tensors)
        for tensor in done.graph.initializer:
            if tensor.name == "head.bias":
                tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) * np.float32(1.0001)).tobytes()
        return done

    monkeypatch.setattr(suffix_segments, "opaque", wrong)
    found = proof(model)
    assert found.plan is not None
    assert found.plan.style == "ported"


def test_segments_that_know_shapes_which_the_file_does_not_say_are_not_told_them() -> None:
    """An engine that takes another operator where it knows a shape, as ONNX Runtime does of pools in blocks of channels."""

    class Choosing(Lab):
        def open(self, model: bytes, *, batch: int | None = None, mutable_weights: bool = False) -> Any:
            segment = onnx.load_from_string(model)
            if {value.name for value in segment.graph.value_info} - stated:
                for tensor in segment.graph.initializer:
                    if tensor.name == "head.bias":
                        tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) * np.float32(1.0001)).tobytes()
            return super().open(segment.SerializeToString(), batch=batch, mutable_weights=mutable_weights)

    plain = onnx.load_from_string(exported("pre-norm"))
    stated = {site.name for site in Lab(exported("pre-norm")).table}
    said = [value for value in plain.graph.value_info if value.name in stated]
    del plain.graph.value_info[:]
    plain.graph.value_info.extend(said)
    found = proof(Choosing(plain.SerializeToString()))
    assert found.plan == Shortcuts(style="untold")
    assert not any(tried.passed for tried in found.record.tried[:3])


def test_where_nothing_gives_the_same_bits_the_whole_is_run(model: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = SuffixEvaluator.evaluate

    def wrong(self: SuffixEvaluator, injections: Injections) -> Iterator[Evaluated]:
        for found in evaluate(self, injections):
            yield Evaluated(found.rows, off_by_a_bit(found.outputs), found.how, found.bound)

    monkeypatch.setattr(SuffixEvaluator, "evaluate", wrong)
    found = proof(model)
    assert found.plan is None
    assert found.record.plan is None
    assert len(found.record.tried) == 1 + len(STYLES)


def test_an_engine_that_refuses_segments_leaves_the_whole(model: Lab) -> None:
    class Refusing(Lab):
        def open(self, model: bytes, *, batch: int | None = None, mutable_weights: bool = False) -> Any:
            if self.opened:
                raise EngineError("no part of a model for me")
            return super().open(model, batch=batch, mutable_weights=mutable_weights)

    found = proof(Refusing(exported("pre-norm")))
    assert found.plan is None
    assert "no part of a model" in found.record.error


def test_a_plan_from_the_record_works_in_another_place(model: Lab) -> None:
    plan = Shortcuts.from_record(proof(model).record.plan or {})
    injections = model.injections(50, seed=3)
    found, _ = evaluated(Lab(exported("pre-norm")).evaluator(plan), injections)
    np.testing.assert_array_equal(bits(found), bits(evaluated(model.whole, injections)[0]))
    assert plan != BARE


def test_only_sites_of_the_campaign_are_shown(model: Lab) -> None:
    faulty = [site for site in model.stages.table if site.name in ("block.0.attn.v", "head")]
    found = prove_suffix(model.evaluator, model.whole, model.live, IMAGES, seed=0, per_site_kind=4, sites=faulty)
    assert found.plan == Shortcuts()
    sample_of_two = sample(model.stages.table.ports, faulty, model.live, IMAGES, 4, seed=0)
    assert found.record.rows == len(sample_of_two)
    ports = {model.stages.table.ports[site.name] for site in faulty}
    assert set(sample_of_two.ports.site.ravel().tolist()) - {NO_SITE} == ports
